/* The list's ticks and their bulk bar. Ticks survive live updates, not a change of the list. */
(function () {
  "use strict";
  function boxes() { return Array.prototype.slice.call(document.querySelectorAll("[data-tick]")); }

  function update() {
    var all = boxes();
    var ticked = all.filter(function (box) { return box.checked; });
    var bar = document.getElementById("bulk");
    if (bar) {
      bar.hidden = ticked.length === 0;
      bar.querySelector("[data-ticked]").textContent = String(ticked.length);
    }
    var head = document.querySelector("[data-tick-all]");
    if (head) {
      head.checked = all.length > 0 && ticked.length === all.length;
      head.indeterminate = ticked.length > 0 && ticked.length < all.length;
    }
  }

  document.addEventListener("change", function (event) {
    if (event.target.matches("[data-tick-all]")) boxes().forEach(function (box) { box.checked = event.target.checked; });
    if (event.target.matches("[data-tick],[data-tick-all]")) update();
  });
  document.addEventListener("berth:swapped", update);
  /* Searching replaces the field that is being typed into: keep the caret and what was typed meanwhile. */
  var typed = null;
  document.addEventListener("htmx:beforeSwap", function () {
    var field = document.activeElement;
    typed = field && field.matches("#list input[type=search]") ? { value: field.value, at: field.selectionStart } : null;
  });
  document.addEventListener("htmx:afterSettle", function () {
    update();
    var field = document.getElementById("search");
    if (typed && field) {
      field.value = typed.value;
      field.focus();
      field.setSelectionRange(typed.at, typed.at);
    }
    typed = null;
  });
  update();
})();
