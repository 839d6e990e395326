/* One chart: a uPlot in a <figure>, with its cursor by mouse and by keyboard. All charts share their cursor and window. */
(function () {
  "use strict";
  var metrics = window.berthMetrics;
  var words = metrics.words;
  var ink = metrics.axes;
  var DASHES = { dashed: [7, 4], dotted: [2, 3] };
  var MARKS_HEIGHT = 24;
  var AWAY = { left: -10, top: -10 };
  var stepped = uPlot.paths.stepped({ align: 1 });

  function most(rows) {
    var found = 0;
    rows.forEach(function (row) {
      row.values.forEach(function (value) { if (value > found) found = value; });
    });
    return found;
  }

  /* The newest point with a figure. */
  function lastOf(rows, count) {
    var known = rows.filter(function (row) { return row.kind !== "limit"; });
    for (var i = count - 1; i > 0; i--) {
      if (known.some(function (row) { return row.values[i] !== null; })) return i;
    }
    return 0;
  }

  /* A point between two gaps has no line: it is drawn as a dot. */
  function alone(u, index, show) {
    if (show) return null;
    var values = u.data[index];
    var found = [];
    for (var i = 0; i < values.length; i++) {
      if (values[i] !== null && (i === 0 || values[i - 1] === null) && (i + 1 === values.length || values[i + 1] === null)) found.push(i);
    }
    return found.length ? found : null;
  }

  function numeric(a, b) { return a.localeCompare(b, undefined, { numeric: true }); }

  function replicaRows(plan, picture, spaced, say) {
    var names = Object.keys(picture.replicas).filter(function (name) {
      var column = picture.replicas[name][plan.perReplica];
      return column && metrics.merge.hasFigures(column);
    });
    if (names.length < 2) return []; // its line is the mean's
    var labels = words.replicas(names.sort(numeric), say);
    return names.map(function (name, i) {
      return { kind: "replica", label: labels[name], title: name, ink: 2 + i % 5, look: "solid",
        values: spaced.row(picture.replicas[name][plan.perReplica]) };
    });
  }

  function limitRow(plan, picture, spaced, say) {
    var limit = plan.threshold && picture.thresholds[plan.threshold];
    if (!limit) return [];
    var values = plan.perReady
      ? spaced.row(picture.series.ready).map(function (count) { return count === null ? null : limit * count; })
      : spaced.at.map(function () { return limit; });
    return [{ kind: "limit", label: say(plan.perReady ? "threshold-ready" : "threshold"), ink: "limit",
      look: plan.perReady ? "dashed-step" : "dashed", values: values }];
  }

  /* What is drawn, from the bottom to the top. */
  function rowsOf(plan, picture, spaced, say) {
    var lines = plan.lines.map(function (line) {
      return { kind: line.ink ? "line" : "frame", name: line.series, label: line.label, ink: line.ink, look: line.look, values: spaced.row(picture.series[line.series]) };
    });
    var of = function (kind) { return lines.filter(function (row) { return row.kind === kind; }); };
    return of("frame").concat(replicaRows(plan, picture, spaced, say), limitRow(plan, picture, spaced, say), of("line"));
  }

  function seriesOf(row, hidden) {
    var name = row.kind === "limit" ? "limit" : "ink-" + row.ink;
    return {
      label: row.label, scale: "y", show: !hidden[row.label],
      stroke: function () { return row.kind === "replica" ? ink.faint(name, 0.75) : ink.colour(name); },
      fill: row.look === "area" ? function () { return ink.faint(name, 0.14); } : undefined,
      width: row.kind !== "line" ? 1 : row.look === "step" ? 2 : 1.5,
      dash: DASHES[row.look.replace("-step", "")],
      paths: row.look.indexOf("step") >= 0 ? stepped : undefined,
      points: { show: false, filter: alone, size: 4 },
    };
  }

  function Chart(figure, plan, page) {
    this.figure = figure;
    this.plan = plan;
    this.page = page; // {say, zoom, zoomOut, step}
    this.plot = figure.querySelector("[data-plot]");
    this.legend = new metrics.Legend(figure, page.say, this);
    this.table = new metrics.Table(figure, plan, page.say);
    this.marks = plan.decisions ? new metrics.Marks(this, page) : null;
    this.hidden = {};
    this.u = null;
    this.plot.addEventListener("keydown", this.onKey.bind(this));
    this.plot.addEventListener("focus", this.onFocus.bind(this));
    this.plot.addEventListener("blur", this.leave.bind(this));
  }

  Chart.prototype.show = function (picture, view) {
    var spaced = metrics.merge.spaced(picture, view.from, view.to);
    this.view = view;
    this.at = spaced.at;
    this.step = picture.step;
    this.rows = rowsOf(this.plan, picture, spaced, this.page.say);
    this.last = lastOf(this.rows, spaced.at.length);
    this.figure.hidden = this.plan.optional && !this.rows.some(function (row) {
      return row.kind === "line" && metrics.merge.hasFigures(row.values);
    });
    if (this.figure.hidden) { this.destroy(); return; }
    this.draw();
    this.legend.show(this.reading());
    this.tell();
    if (this.marks) this.marks.show(picture.decisions);
    this.table.show(this, picture);
  };

  /* Its rows in the reader's order: lines, what frames them, threshold, replicas. */
  Chart.prototype.reading = function () {
    var order = { line: 0, frame: 1, limit: 2, replica: 3 };
    return this.rows.slice().sort(function (a, b) { return order[a.kind] - order[b.kind]; });
  };

  Chart.prototype.draw = function () {
    var data = [this.at].concat(this.rows.map(function (row) { return row.values; }));
    var shape = this.rows.map(function (row) { return row.kind + row.label + row.look; }).join("|");
    this.measure();
    if (this.u && this.shape === shape) { this.u.setData(data); return; }
    this.destroy();
    this.shape = shape;
    this.u = new uPlot(this.options(), data, this.plot);
  };

  Chart.prototype.measure = function () {
    var hidden = this.hidden;
    var shown = this.rows.filter(function (row) { return !hidden[row.label]; });
    var limits = shown.filter(function (row) { return row.kind === "limit"; });
    this.top = ink.top(this.plan.unit, most(shown.filter(function (row) { return row.kind !== "limit"; })), most(limits));
  };

  Chart.prototype.options = function () {
    var chart = this;
    var hidden = this.hidden;
    var drawn = function () { if (chart.marks) chart.marks.place(); };
    return {
      width: this.plot.clientWidth, height: this.plot.clientHeight,
      padding: [this.marks ? MARKS_HEIGHT + 4 : 8, 12, 0, 0],
      legend: { show: false },
      focus: { alpha: 0.3 },
      cursor: {
        y: false, points: { size: 7 }, focus: { prox: this.plan.perReplica ? 12 : -1 },
        drag: { x: true, y: false, setScale: false, dist: 6 },
        sync: { key: "metrics", scales: ["x", null] },
        bind: { dblclick: function () { return function () { chart.page.zoomOut(); return null; }; } },
      },
      scales: {
        x: { time: true, range: function () { return [chart.view.from, chart.view.to]; } },
        y: { range: function () { return [0, chart.top]; } },
      },
      axes: ink.axes(this.plan.unit),
      series: [{}].concat(this.rows.map(function (row) { return seriesOf(row, hidden); })),
      bands: this.bands(),
      hooks: {
        setCursor: [function () { chart.tell(); }],
        setSeries: [function (u, index) { chart.legend.mark(index === null ? null : chart.rows[index - 1]); }],
        setSelect: [function (u) { chart.select(u); }],
        draw: [drawn],
      },
    };
  };

  Chart.prototype.bands = function () {
    var plan = this.plan;
    if (!plan.band) return [];
    var rows = this.rows;
    var index = function (name) { return 1 + rows.findIndex(function (row) { return row.name === name; }); };
    return [{ series: [index(plan.band[1]), index(plan.band[0])], fill: function () { return ink.faint("ink-0", 0.13); } }];
  };

  Chart.prototype.select = function (u) {
    if (u.select.width < 1) return;
    var from = u.posToVal(u.select.left, "x");
    var to = u.posToVal(u.select.left + u.select.width, "x");
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.page.zoom(from, to);
  };

  Chart.prototype.toggle = function (row) {
    this.hidden[row.label] = !this.hidden[row.label];
    this.measure();
    this.u.setSeries(this.rows.indexOf(row) + 1, { show: !this.hidden[row.label] });
  };

  Chart.prototype.emphasise = function (row) {
    if (this.u) this.u.setSeries(row ? this.rows.indexOf(row) + 1 : null, { focus: true }, true);
  };

  /* The point under the cursor, null where there is none. (uPlot takes new data over a moment later than it is set.) */
  Chart.prototype.index = function () {
    var index = this.u && this.u.cursor.left >= 0 ? this.u.cursor.idx : null;
    return index === null || index === undefined || index >= this.at.length ? null : index;
  };

  /* Says in words what is at the cursor, or what was measured last. */
  Chart.prototype.tell = function () {
    if (!this.rows) return;
    var index = this.index();
    var at = index === null ? this.last : index;
    this.figure.querySelector("[data-at]").textContent = index === null ? "" : words.moment(this.at[at], this.step);
    this.told = words.moment(this.at[at], this.step) + ": " + this.legend.tell(at, index === null, this.plan.unit);
    this.plot.setAttribute("aria-valuemax", String(this.at.length - 1));
    this.plot.setAttribute("aria-valuenow", String(at));
  };

  /* To a screen reader, once for each key: what moves by itself would never let it come to an end. */
  Chart.prototype.speak = function () { this.plot.setAttribute("aria-valuetext", this.told); };

  Chart.prototype.pointAt = function (moment) {
    if (!this.u) return;
    var left = Math.min(Math.max(this.u.valToPos(moment, "x"), 0), this.u.over.clientWidth);
    this.u.setCursor({ left: left, top: this.u.over.clientHeight / 2 }, true, true);
  };

  Chart.prototype.leave = function () { if (this.u) this.u.setCursor(AWAY, true, true); };

  Chart.prototype.onFocus = function () {
    if (this.u && this.index() === null && this.plot.matches(":focus-visible")) this.pointAt(this.at[this.last]);
    this.speak();
  };

  Chart.prototype.onKey = function (event) {
    if (!this.u || event.target !== this.plot || event.ctrlKey || event.metaKey || event.altKey) return;
    var now = this.index();
    var index = now === null ? this.last : now;
    var far = Math.max(1, Math.round(this.at.length / 10));
    var to = { ArrowLeft: index - 1, ArrowRight: index + 1, PageDown: index + far, PageUp: index - far, Home: 0, End: this.last }[event.key];
    if (event.key === "Escape") this.leave();
    else if (event.key === "+" || event.key === "=") this.page.zoomAround(this.at[index]);
    else if (event.key === "-") this.page.zoomOut();
    else if (to === undefined) return;
    else this.pointAt(this.at[Math.min(Math.max(to, 0), this.at.length - 1)]);
    this.speak();
    event.preventDefault();
  };

  Chart.prototype.resize = function () {
    if (!this.u || !this.plot.clientWidth) return;
    if (this.u.width !== this.plot.clientWidth || this.u.height !== this.plot.clientHeight) {
      this.u.setSize({ width: this.plot.clientWidth, height: this.plot.clientHeight });
    }
  };

  Chart.prototype.redraw = function () { if (this.u) this.u.redraw(false, true); };

  Chart.prototype.destroy = function () {
    if (this.u) this.u.destroy();
    this.u = null;
  };

  metrics.Chart = Chart;
})();
