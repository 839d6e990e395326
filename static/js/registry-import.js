/* The import page shows the fields of the chosen source and framework only. Without this script all are there. */
(function () {
  "use strict";
  var form = document.querySelector("[data-import-form]");
  if (!form) return;

  function chosen(name) {
    var field = form.elements[name];
    return field ? field.value : "";
  }

  function update() {
    var source = chosen("source");
    form.querySelectorAll("[data-source]").forEach(function (part) {
      part.hidden = part.getAttribute("data-source").split(" ").indexOf(source) < 0;
    });
    var framework = source === "image" ? "" : chosen("framework");
    form.querySelectorAll("[data-framework]").forEach(function (part) {
      part.hidden = part.getAttribute("data-framework") !== framework;
    });
  }

  /* A name follows the source until someone types one. */
  function suggest(event) {
    var name = form.elements.name;
    if (event.target === name) { name.typed = name.value !== ""; return; }
    if (name.typed || ["path", "repo_id", "image"].indexOf(event.target.name) < 0) return;
    var last = event.target.value.trim().replace(/\/+$/, "").split("/").pop() || "";
    if (event.target.name === "path") last = last.replace(/\.gguf$/i, "");
    if (event.target.name === "image") last = last.split("@")[0].split(":")[0];
    name.value = last.replace(/[^A-Za-z0-9._:@+-]/g, "-").replace(/^[^A-Za-z0-9]+/, "").slice(0, 80);
  }

  form.elements.name.typed = form.elements.name.value !== "";
  form.addEventListener("input", suggest);
  form.addEventListener("change", update);
  update();
})();
