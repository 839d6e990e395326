/* A chart's figures as a table, for who can't see the chart. Built when it is unfolded, and kept up to date then. */
(function () {
  "use strict";
  var words = window.berthMetrics.words;
  var MOST = 60;

  function cell(tag, text, scope) {
    var made = document.createElement(tag);
    made.textContent = text;
    if (scope) made.scope = scope;
    return made;
  }

  function timeCell(at, step) {
    var head = cell("th", "", "row");
    var time = document.createElement("time");
    time.dateTime = words.iso(at);
    time.textContent = words.moment(at, step);
    head.append(time);
    return head;
  }

  function table(caption, heads) {
    var made = document.createElement("table");
    made.className = "table table-sm num";
    made.createCaption().textContent = caption;
    var row = made.createTHead().insertRow();
    heads.forEach(function (text) { row.append(cell("th", text, "col")); });
    made.createTBody();
    return made;
  }

  function Table(figure, plan, say) {
    this.details = figure.querySelector("details");
    this.box = figure.querySelector("[data-table]");
    this.plan = plan;
    this.say = say;
    this.details.addEventListener("toggle", this.build.bind(this));
  }

  Table.prototype.show = function (chart, picture) {
    this.chart = chart;
    this.picture = picture;
    this.build();
  };

  Table.prototype.build = function () {
    if (!this.details.open || !this.chart) return;
    var tables = [this.figures()];
    if (this.plan.decisions && this.picture.decisions.length) tables.push(this.decided());
    this.box.replaceChildren.apply(this.box, tables);
  };

  /* The newest first: what one looks for stands at the top. */
  Table.prototype.figures = function () {
    var chart = this.chart;
    var unit = this.plan.unit;
    var rows = chart.reading();
    var every = Math.ceil((chart.last + 1) / MOST);
    var caption = this.plan.title + (every > 1 ? " · " + this.say("thinned").replace("%s", words.span(every * chart.step)) : "");
    var made = table(caption, [this.say("time")].concat(rows.map(function (row) { return row.label; })));
    for (var i = chart.last; i >= 0; i -= every) {
      var line = made.tBodies[0].insertRow();
      line.append(timeCell(chart.at[i], chart.step));
      rows.forEach(function (row) { line.append(cell("td", words.value(unit, row.values[i]))); });
    }
    return made;
  };

  Table.prototype.decided = function () {
    var newest = this.picture.decisions.slice().sort(function (a, b) { return b.at - a.at; }).slice(0, MOST);
    var made = table(this.say("decisions").replace("%s", this.picture.decisions.length),
      [this.say("time"), this.say("before-after"), this.say("decision")]);
    newest.forEach(function (item) {
      var line = made.tBodies[0].insertRow();
      line.append(timeCell(item.at, 1), cell("td", item.before + " → " + item.after), cell("td", item.text));
    });
    return made;
  };

  window.berthMetrics.Table = Table;
})();
