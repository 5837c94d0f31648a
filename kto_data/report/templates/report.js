"use strict";
(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const words = document.getElementById("words");
  const shown = document.getElementById("shown");
  const unfold = document.getElementById("unfold");
  const boxes = [...form.querySelectorAll("[name=severity]")];
  const rules = [...document.querySelectorAll(".rule")].map((rule) => ({
    rule,
    head: rule.querySelector("summary").textContent.toLowerCase(),
    samples: [...rule.querySelectorAll(".samples li")].map((item) => [item, item.textContent.toLowerCase()]),
  }));

  function apply() {
    const wanted = words.value.trim().toLowerCase();
    const severities = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    let number = 0;
    for (const { rule, head, samples } of rules) {
      const inHead = head.includes(wanted);
      const hits = samples.filter(([item, text]) => !(item.hidden = !inHead && !text.includes(wanted)));
      rule.hidden = !severities.has(rule.dataset.severity) || !(inHead || hits.length);
      // A rule whose name says nothing of the words is opened, so that they are seen where they stand.
      if (wanted && !inHead && hits.length) rule.open = true;
      number += !rule.hidden;
    }
    const all = rules.length;
    shown.textContent = number === all ? `${all} rule${all === 1 ? "" : "s"}` : `${number} of ${all} rules`;
    document.getElementById("nothing").hidden = number > 0;
  }

  function fold(open) {
    for (const { rule } of rules) rule.open = open;
    unfold.textContent = open ? "Close all" : "Open all";
  }

  function reveal() {
    const rule = document.getElementById(location.hash.slice(1));
    if (rule && rule.matches(".rule")) rule.open = true;
  }

  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  unfold.addEventListener("click", () => fold(unfold.textContent === "Open all"));
  addEventListener("hashchange", reveal);
  reveal();
  apply(); // a browser that comes back to the page keeps what was typed
})();
