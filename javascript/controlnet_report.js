// What ran, unit by unit, under the result: read from the answer that the host keeps in the page.
//
// A classic script without globals. The answer's key "ControlNet report" is described in
// docs/panel.md; what stands here is texts alone.
(() => {
  "use strict";

  const { TABS, follow, word } = window.controlnetPanel.page;
  const KEY = "ControlNet report";

  const amount = (bytes) => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.round(bytes / 1e6)} MB`);
  const make = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });

  /** One pass of a unit in words. */
  function describePass(pass, isAlone) {
    const size = pass.size.join("x");
    const parts = [word("report_steps", { steps: pass.steps, of: pass.of, size })];
    if (pass.evaluated !== undefined) parts.push(word("report_reused", { count: pass.evaluated }));
    const time = pass.timed === "device" ? "report_time_device" : "report_time";
    if (pass.steps) parts.push(word(time, { ms: pass.ms_per_step }));
    const what = parts.join(", ");
    if (isAlone) return what;
    return word(pass.pass === "hires" ? "report_hires" : "report_first", { what });
  }

  /** One unit in words. */
  function describeUnit(unit) {
    const map = unit.map ? ` ${unit.map.join("x")}` : "";
    const { family, base } = unit;
    const kind = family && base ? word("report_model", { family, base }) : family || base;
    const facts = [kind, unit.memory && amount(unit.memory), unit.stored].filter(Boolean).join(", ");
    const passes = (unit.passes || []).filter((pass) => pass.of);
    const parts = [unit.preprocessor && `${unit.preprocessor}${map}`, unit.model];
    if (facts) parts.push(facts);
    for (const pass of passes) parts.push(describePass(pass, passes.length === 1));
    if (unit.skipped) parts.push(word("report_skipped", { reason: unit.skipped }));
    return parts.filter(Boolean).join(" \u00b7 ");
  }

  function draw(log, units) {
    let box = log.parentElement.querySelector(":scope > .cnet-report");
    if (!units.length) {
      if (box) box.remove();
      return;
    }
    if (!box) {
      box = make("details", "");
      box.className = "cnet-report";
      log.insertAdjacentElement("afterend", box);
    }
    const idle = units.filter((unit) => unit.skipped).length;
    const ran = units.length - idle;
    const report = word(ran === 1 ? "report_one" : "report", { count: ran });
    const summary = idle ? word("report_idle", { report, count: idle }) : report;
    const list = document.createElement("ul");
    for (const unit of units) {
      const item = make("li", "");
      item.append(make("b", word("report_unit", { number: unit.unit })), ` ${describeUnit(unit)}`);
      list.append(item);
    }
    box.replaceChildren(make("summary", summary), list);
  }

  const shown = {};
  function update() {
    for (const tab of TABS) {
      const log = document.querySelector(`#html_log_${tab}`);
      const text = document.querySelector(`#generation_info_${tab} textarea`)?.value;
      if (!log || text === undefined || text === shown[tab]) continue;
      shown[tab] = text;
      let units = [];
      try {
        units = JSON.parse(text).extra_generation_params?.[KEY]?.units || [];
      } catch {
        // Nothing has been generated yet.
      }
      draw(log, units);
    }
  }

  follow(update, { calmly: true });
})();
