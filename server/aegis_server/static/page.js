// Small helpers for building the page.

/** After so long without a report nothing is live any more; a robot reports about ten times a second. */
export const SILENCE_MS = 2000;

export const $ = (id) => document.getElementById(id);

/** An element: make("p", { className: "fine" }, "text", child). */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** An SVG element with attributes. */
export function draw(name, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** Write text only when it changes, so that a screen reader is not told the same thing again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Buttons that put words into a field. */
export function chips(box, texts, field) {
  box.replaceChildren(
    ...texts.map((text) => {
      const button = make("button", { type: "button", textContent: text });
      button.onclick = () => {
        field.value = text;
        field.focus();
      };
      return button;
    }),
  );
}
