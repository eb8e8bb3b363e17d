// Icons as lines on a field of 24.

const PATHS = {
  attach: "M20 11.5 12 19.5a5 5 0 0 1-7-7l8.5-8.5a3.3 3.3 0 0 1 4.7 4.7L9.8 17a1.6 1.6 0 0 1-2.3-2.3l7.6-7.6",
  chat: "M4 5h16v11H10l-4 4v-4H4z",
  check: "m5 13 4 4L19 7",
  close: "M6 6l12 12M18 6 6 18",
  copy: "M9 9h10v11H9zM5 15V4h10",
  down: "M12 5v14m-6-6 6 6 6-6",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  export: "M12 15V4m-4 4 4-4 4 4M5 14v6h14v-6",
  keyboard: "M3 6h18v12H3zM7 10h.01M11 10h.01M15 10h.01M8 14h8",
  load: "M4 19V11m5 8V5m5 14v-6m5 6V8",
  menu: "M4 7h16M4 12h16M4 17h16",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
  more: "M5.5 12a.5.5 0 1 0 1 0 .5.5 0 1 0-1 0m6 0a.5.5 0 1 0 1 0 .5.5 0 1 0-1 0m6 0a.5.5 0 1 0 1 0 .5.5 0 1 0-1 0",
  next: "m9 6 6 6-6 6",
  plus: "M12 5v14M5 12h14",
  previous: "m15 6-6 6 6 6",
  probabilities: "M4 18c5 0 4-12 8-12s3 12 8 12",
  redo: "M20 11a8 8 0 1 0-2.3 5.7M20 4v7h-7",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zm5 12 4 4",
  send: "M12 19V5m-6 6 6-6 6 6",
  settings: "M4 7h9m5 0h2M4 17h2m5 0h9M15.5 4.5v5M8.5 14.500v5",
  stop: "M7 7h10v10H7z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2m0 16v2M2 12h2m16 0h2M5 5l1.5 1.500M17.5 17.5 19 19M19 5l-1.5 1.500M6.5 17.5 5 19",
  system: "M3 5h18v11H3zM9 20h6m-3-4v4",
  tool: "M14 6a4 4 0 0 1 5.5 5L11 19.500a2.1 2.1 0 0 1-3-3L16.5 8 14 6zM4 4l5 5",
  trash: "M5 7h14M10 7V4h4v3m-7 0 1 13h8l1-13",
};

/** @param {keyof typeof PATHS} name */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
