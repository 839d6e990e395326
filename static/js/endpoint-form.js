/* The summary that follows every keystroke, and the parts of the form that depend on the model. */
(function () {
  "use strict";
  var form = document.querySelector("[data-endpoint-form]");
  var card = document.getElementById("summary");
  if (!form || !card) return;
  var lang = document.documentElement.lang || "en";
  var hours = Number(card.getAttribute("data-hours"));
  var THRESHOLDS = ["cpu_percent", "memory_percent", "gpu_percent", "latency_ms", "in_flight"];
  var LIMITS = ["requests_per_minute", "max_concurrency", "tokens_per_minute", "tokens_per_month"];
  var say = function (name) { return card.getAttribute("data-say-" + name); };

  function money(amount, currency) {
    var whole = amount >= 1000 || Number.isInteger(amount);
    try {
      return new Intl.NumberFormat(lang, { style: "currency", currency: currency, currencyDisplay: "code",
        minimumFractionDigits: 0, maximumFractionDigits: whole ? 0 : 2 }).format(amount).replace(/\u00a0/g, " ");
    } catch (e) {
      return amount + " " + currency;
    }
  }

  function put(name, text) {
    var place = card.querySelector('[data-sum="' + name + '"]');
    if (place && place.textContent !== text) place.textContent = text;
  }

  function value(name) {
    var field = form.elements[name];
    return field && field.value ? field.value.trim() : "";
  }

  function count(name) {
    var text = value(name);
    return /^\d{1,4}$/.test(text) ? Number(text) : null;
  }

  function price(which, amount, count, currency) {
    if (amount === null) { put(which + "_hour", say("no-price")); put(which + "_month", "–"); return; }
    if (count === null) { put(which + "_hour", "–"); put(which + "_month", "–"); return; }
    put(which + "_hour", money(amount * count / hours, currency));
    put(which + "_month", money(amount * count, currency));
  }

  /* In words; and the notes beside the fields, by the same rules as EndpointForm.scaling_notes. */
  function scaling(min, max) {
    var set = THRESHOLDS.filter(value);
    var known = min !== null && max !== null && min <= max;
    var room = known && max > Math.max(min, 1);
    note("no_threshold", room && !set.length);
    note("no_room", known && !room && set.length > 0);
    note("never_idle", known && min > 0 && value("idle_timeout_s") !== "");
    if (!known) return "–";
    var words = [];
    if (room) words.push(set.length ? say("by") + " " + set.map(say).join(", ") : say("nothing"));
    if (min === 0) words.push(say("sleeps"));
    return words.join("; ") || say("fixed");
  }

  function limits() {
    return LIMITS.filter(value).map(function (name) {
      var typed = value(name);
      return say(name).replace("%s", /^\d+$/.test(typed) ? Number(typed).toLocaleString(lang) : typed);
    }).join(", ") || say("unlimited");
  }

  function note(name, shown) {
    var place = form.querySelector('[data-note="' + name + '"]');
    if (place && place.hidden === shown) place.hidden = !shown;
  }

  function update() {
    put("name", value("name") || "–");
    var region = form.elements.region;
    put("region", region && region.selectedIndex >= 0 ? region.value : "–");
    var option = form.elements.model_id.selectedOptions[0];
    var model = option && option.value ? option.dataset : null;
    put("model", model ? model.name : "–");
    put("framework", model ? model.frameworkName : "–");
    var type = form.querySelector("[name=instance_type]:checked");
    var data = type ? type.dataset : null;
    put("type", type ? type.value : "–");
    put("gpu", data && data.gpu ? data.gpu : "–");
    put("gpus", data ? data.gpus : "–");
    put("cpu", data ? (data.cpu === "0" ? say("all") : data.cpu) : "–");
    put("ram", data ? (data.ram === "0" ? say("all") : data.ram + " GiB") : "–");
    put("vram", data && data.gpus !== "0" ? data.vram + " GiB" : "–");
    var min = count("min_replicas");
    var max = count("max_replicas");
    put("replicas", (min === null ? "?" : min) + " – " + (max === null ? "?" : max));
    put("scaling", scaling(min, max));
    put("private", form.elements.private.checked ? say("yes") : say("no"));
    put("limits", limits());
    var amount = data && data.price !== "" ? Number(data.price) : null;
    if (!data) ["min", "max"].forEach(function (w) { put(w + "_hour", "–"); put(w + "_month", "–"); });
    else { price("min", amount, min, data.currency); price("max", amount, max, data.currency); }
    form.querySelectorAll("[data-framework]").forEach(function (fold) {
      if (fold.tagName === "DETAILS") fold.hidden = !model || fold.dataset.framework !== model.framework;
    });
  }

  function prices() {
    document.querySelectorAll("[data-money]").forEach(function (cell) {
      var amount = cell.getAttribute("data-money");
      if (amount !== "") cell.textContent = money(Number(amount), cell.getAttribute("data-currency"));
    });
  }

  function showType() {
    var box = form.querySelector(".types");
    if (!box) return;
    var radio = box.querySelector("input:checked") || box.querySelector("input:not([disabled])");
    if (radio) box.scrollTop = Math.max(0, radio.closest(".type").offsetTop - box.offsetTop - 64);
  }

  /* Rows of environment variables: one more, one less. What that means is asked of the server like any change. */
  form.addEventListener("click", function (event) {
    var box = form.querySelector("[data-variables]");
    if (event.target.closest("[data-variable-add]")) {
      var last = box.lastElementChild;
      var empty = last && Array.prototype.every.call(last.querySelectorAll("input"), function (input) { return !input.value; });
      if (!empty) box.appendChild(box.parentNode.querySelector("template").content.cloneNode(true));
      box.lastElementChild.querySelector("input").focus();
    }
    var remove = event.target.closest("[data-variable-remove]");
    if (remove) {
      var row = remove.closest(".variable");
      var next = row.nextElementSibling || row.previousElementSibling;
      row.remove();
      if (next) next.querySelector("button").focus(); else form.querySelector("[data-variable-add]").focus();
      box.dispatchEvent(new Event("change", { bubbles: true }));
    }
  });

  /* Lists that the server makes anew. What was chosen while its answer was under way stays chosen, where it still can. */
  var LISTS = { "instance-types": "input:checked", "id_model_id": "option:checked" };
  var chosen = null;
  document.addEventListener("htmx:beforeSwap", function (event) {
    var list = event.detail.target;
    var choice = LISTS[list.id] && list.querySelector(LISTS[list.id]);
    chosen = choice && choice.value ? { value: choice.value, focused: choice === document.activeElement } : null;
  });
  document.addEventListener("htmx:afterSwap", function (event) {
    var list = event.detail.target;
    var again = chosen && list.querySelector('[value="' + CSS.escape(chosen.value) + '"]:not(:disabled)');
    if (!again) return;
    if (again.matches("option")) again.selected = true; else again.checked = true;
    if (chosen.focused) again.focus({ preventScroll: true });
  });

  /* A trial that is made again while one types stays unfolded where it was. */
  var unfolded = [];
  document.addEventListener("htmx:beforeSwap", function (event) {
    var folds = event.detail.target.id === "dry-run" ? event.detail.target.querySelectorAll("details") : [];
    if (folds.length) unfolded = Array.prototype.map.call(folds, function (fold) { return fold.open; });
  });
  document.addEventListener("htmx:afterSwap", function (event) {
    if (event.detail.target.id !== "dry-run") return;
    event.detail.target.querySelectorAll("details").forEach(function (fold, i) { fold.open = !!unfolded[i]; });
    var trial = event.detail.target.querySelector("[data-span]");
    var said = trial && (trial.querySelector("svg[aria-label]") || trial.querySelector(".notice"));
    if (said) window.berth.announce(said.getAttribute("aria-label") || said.textContent.trim());
    form.querySelectorAll(".try-ranges button").forEach(function (button) {
      button.setAttribute("aria-pressed", String(!!trial && trial.getAttribute("data-span") === button.value));
    });
  });

  form.addEventListener("input", update);
  form.addEventListener("change", update);
  document.addEventListener("htmx:afterSettle", function (event) {
    prices();
    update();
    if (event.target.id === "instance-types") showType();
    // A refreshed list of models may have lost the chosen one: the types follow.
    if (event.target.id === "id_model_id") htmx.trigger("#id_model_id", "change");
  });
  prices();
  update();
  showType();
  var first = form.querySelector(".field-error");
  if (first) {
    var field = first.closest(".field");
    var input = field && field.querySelector("input:not([disabled]), select");
    (input || first).focus({ preventScroll: true });
    (field || first).scrollIntoView({ block: "center" });
  }
})();
