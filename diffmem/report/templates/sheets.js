"use strict";
(() => {
  const cards = [...document.querySelectorAll(".card")];
  const sheet = document.body.dataset.sheet;
  const rater = document.getElementById("rater");
  const count = document.getElementById("count");
  const say = document.getElementById("say");
  const key = "diffmem:" + sheet;
  const keys = { 1: "copy", 2: "no", 3: "unsure", y: "copy", n: "no", u: "unsure" };
  let labels = {};
  let at = 0;

  const keep = () => {
    try {
      localStorage.setItem(key, JSON.stringify({ rater: rater.value, labels }));
    } catch (e) { /* a private window keeps nothing */ }
  };
  const show = () => {
    cards.forEach((card, i) => {
      const mark = labels[card.dataset.name];
      card.classList.toggle("here", i === at);
      card.querySelectorAll("button").forEach((button) => {
        button.setAttribute("aria-pressed", String(button.value === mark));
      });
    });
    count.textContent = Object.keys(labels).length + " of " + cards.length + " marked";
  };
  const go = (i) => {
    at = Math.max(0, Math.min(cards.length - 1, i));
    cards[at].scrollIntoView({ block: "center" });
    show();
  };
  const mark = (i, value) => {
    const name = cards[i].dataset.name;
    if (labels[name] === value) {
      delete labels[name];
    } else {
      labels[name] = value;
    }
    keep();
    show();
  };

  cards.forEach((card, i) => {
    card.addEventListener("click", (event) => {
      at = i;
      const button = event.target.closest("button");
      if (button) {
        mark(i, button.value);
      } else {
        show();
      }
    });
  });
  document.addEventListener("keydown", (event) => {
    if (event.target === rater || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    if (keys[event.key]) {
      mark(at, keys[event.key]);
      if (labels[cards[at].dataset.name]) {
        go(at + 1);
      }
    } else if (event.key === "ArrowRight" || event.key === "ArrowDown") {
      go(at + 1);
    } else if (event.key === "ArrowLeft" || event.key === "ArrowUp") {
      go(at - 1);
    } else {
      return;
    }
    event.preventDefault();
  });
  rater.addEventListener("input", keep);
  document.getElementById("save").addEventListener("click", () => {
    const name = rater.value.trim();
    if (!name) {
      say.textContent = "First give your name, so that marks can be told apart.";
      rater.focus();
      return;
    }
    say.textContent = "";
    const text = JSON.stringify({ diffmem_labels: 1, sheet, rater: name, labels }, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text + "\n"], { type: "application/json" }));
    link.download = "labels_" + name.replace(/[^A-Za-z0-9_-]+/g, "_") + ".json";
    document.body.append(link);
    link.click();
    link.remove();
  });

  try {
    const kept = JSON.parse(localStorage.getItem(key) || "{}");
    labels = kept.labels || {};
    rater.value = kept.rater || "";
  } catch (e) { /* nothing was kept */ }
  show();
})();
