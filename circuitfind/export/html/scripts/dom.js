// Elements, made by hand: text is always text, never markup.

const SVG = "http://www.w3.org/2000/svg";

function byId(id) {
  return document.getElementById(id);
}

// An element with attributes, listeners ("onclick") and children; null children are left out.
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function makeSvg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function clamp(value, least, most) {
  return Math.min(most, Math.max(least, value));
}

// A number to three digits, with a real minus sign; a dash where there is none.
function show(value, digits = 3) {
  if (value === null || value === undefined) return "\u2013";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? size.toExponential(digits - 1) : plain(size, digits);
  return (value < 0 ? "\u2212" : "") + text;
}

function plain(size, digits) {
  return size >= 10 ** (digits - 1) ? Math.round(size).toLocaleString("en") : size.toPrecision(digits);
}

function percent(share) {
  if (share === null || share === undefined) return "\u2013";
  if (share > 0 && share < 0.005) return "<1%";
  return (share < 0 ? "\u2212" : "") + Math.round(Math.abs(share) * 100) + "%";
}

// A token so that its spaces can be seen.
function spell(token) {
  return token.replace(/ /g, "\u2423").replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5") || "\u2205";
}

// A token as it is read: without the space before it.
function word(token) {
  return token.trim() || spell(token);
}

// A group of radio buttons that looks like one control: [[value, label], ...].
function makeChoice(name, options, chosen, choose) {
  return options.map(([value, label]) =>
    make("label", {},
      make("input", { type: "radio", name, value, checked: value === chosen, onchange: () => choose(value) }),
      make("span", {}, label)));
}

// A table with a caption for readers that hear it; cells are texts or elements.
function makeTable(caption, head, rows, kind = "") {
  return make("table", { class: kind },
    make("caption", { class: "heard" }, caption),
    make("thead", {}, make("tr", {}, head.map((cell) => make("th", { scope: "col" }, cell)))),
    make("tbody", {}, rows.map((row) => make("tr", {}, row.map((cell, place) =>
      place ? make("td", {}, cell) : make("th", { scope: "row" }, cell))))));
}

// The colour that the style sheet gives a name, e.g. "--ink".
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
