/* Tabs inside a page: arrow keys move, the choice is remembered for the next endpoint. */
(function () {
  "use strict";
  document.querySelectorAll("[data-tabs]").forEach(function (group) {
    var tabs = Array.prototype.slice.call(group.querySelectorAll("[role=tab]"));
    function choose(tab, focus) {
      tabs.forEach(function (other) {
        var on = other === tab;
        other.setAttribute("aria-selected", String(on));
        other.tabIndex = on ? 0 : -1;
        document.getElementById(other.getAttribute("aria-controls")).hidden = !on;
      });
      if (focus) tab.focus();
      try { localStorage.setItem("berth-snippet", tab.id); } catch (e) { /* not remembered */ }
    }
    tabs.forEach(function (tab, i) {
      tab.addEventListener("click", function (event) { event.preventDefault(); choose(tab); });
      tab.addEventListener("keydown", function (event) {
        var step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
        if (step) { event.preventDefault(); choose(tabs[(i + step + tabs.length) % tabs.length], true); }
      });
    });
    var last = null;
    try { last = localStorage.getItem("berth-snippet"); } catch (e) { /* first */ }
    choose(tabs.filter(function (tab) { return tab.id === last; })[0] || tabs[0]);
  });
})();
