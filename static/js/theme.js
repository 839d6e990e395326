/* Loaded blocking in <head>: the theme stands before the first paint, without an inline script. */
(function () {
  "use strict";
  var dark = window.matchMedia("(prefers-color-scheme: dark)");

  function chosen() {
    try {
      return localStorage.getItem("berth-theme") || "auto";
    } catch (e) {
      return "auto";
    }
  }

  function apply() {
    var theme = chosen();
    var root = document.documentElement;
    root.setAttribute("data-theme-choice", theme);
    root.setAttribute("data-bs-theme", theme === "auto" ? (dark.matches ? "dark" : "light") : theme);
  }

  window.berthTheme = {
    choose: function (theme) {
      try {
        localStorage.setItem("berth-theme", theme);
      } catch (e) { /* private mode: the choice lasts for this page */ }
      apply();
      if (theme !== chosen()) {
        document.documentElement.setAttribute("data-bs-theme", theme === "auto" ? (dark.matches ? "dark" : "light") : theme);
      }
    },
  };
  dark.addEventListener("change", apply);
  apply();
})();
