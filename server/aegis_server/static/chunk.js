// The action chunk: a plot for each dimension, what has been carried out solid, what is planned light.

import { $, draw, make, say } from "./page.js";

const WIDTH = 200;
const HEIGHT = 48;
const LEAST = { m: 0.002, rad: 0.01 }; // the smallest scale: below it a plot would magnify noise

export function chunkPlots() {
  let plots = [];
  let horizon = 1;
  return {
    robot: (robot) => {
      horizon = robot?.horizon ?? 1;
      plots = (robot?.actions ?? []).map(plot);
      $("plots").replaceChildren(...plots.map((each) => each.figure));
      $("plots").hidden = true;
    },
    show: (chunk) => {
      $("no-chunk").hidden = chunk !== null || !$("plots").hidden;
      if (!chunk) {
        say($("chunk-number"), "");
        return; // what was planned last stays to be looked at
      }
      $("plots").hidden = false;
      say($("chunk-number"), `chunk ${chunk.number}, ${chunk.executed}/${horizon}`);
      plots.forEach((each, index) => each.show(chunk.actions.map((action) => action[index]), chunk.executed));
    },
  };
}

function plot({ name, unit }) {
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  const [zero, now, planned, done] = ["zero", "now", "planned", "done"].map((kind) => draw("path", { class: kind }));
  svg.append(zero, now, planned, done);
  const [scale, value] = [make("small"), make("span")];
  const figure = make("figure", {}, make("figcaption", {}, make("b", { textContent: name }), scale, value), svg);
  let low = unit === "1" ? 0 : -(LEAST[unit] ?? 1e-3);
  let high = unit === "1" ? 1 : -low;

  function show(values, executed) {
    if (unit === "1") [low, high] = [Math.min(low, ...values), Math.max(high, ...values)];
    else high = -(low = -Math.max(high, ...values.map(Math.abs)));
    const x = (step) => ((step / values.length) * WIDTH).toFixed(1);
    const y = (number) => (HEIGHT - 3 - ((number - low) / (high - low)) * (HEIGHT - 6)).toFixed(1);
    const steps = (from, to) => {
      let path = "";
      for (let i = from; i < to; i++) path += `${i === from ? "M" : "L"}${x(i)} ${y(values[i])}H${x(i + 1)}`;
      return path;
    };
    zero.setAttribute("d", `M0 ${y(0)}H${WIDTH}`);
    now.setAttribute("d", `M${x(executed)} 0V${HEIGHT}`);
    done.setAttribute("d", steps(0, executed));
    planned.setAttribute("d", steps(Math.max(0, executed - 1), values.length));
    const current = values[Math.min(executed, values.length - 1)];
    say(value, number(current, unit));
    say(scale, unit === "1" ? `${Math.round(low) || 0} to ${Math.round(high)}` : `±${number(high, unit, 1)} ${shown(unit)}`);
    const label = `${name}: ${executed} of ${values.length} carried out, next ${number(current, unit)} ${shown(unit)}`;
    svg.setAttribute("aria-label", label);
  }

  return { figure, show };
}

/** The unit that people read: mm for m, none for pure numbers. */
const shown = (unit) => ({ m: "mm", 1: "" })[unit] ?? unit;

/** A value in that unit, with a real minus, and `fewer` digits. */
function number(value, unit, fewer = 0) {
  const text = unit === "m" ? (1000 * value).toFixed(1 - fewer) : value.toFixed((unit === "1" ? 2 : 3) - fewer);
  return Number(text) < 0 ? text.replace("-", "−") : text.replace("-", "");
}
