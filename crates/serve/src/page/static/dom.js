// Elements without templates: text is always text, so nothing that a model says becomes markup here.

/**
 * Makes an element. Properties that begin with `on` listen, `false` and `null` leave an attribute
 * out, `true` gives it no value; children that are `null` are left out.
 * @param {string} tag a name, and classes behind dots: "div.card.small"
 * @param {Record<string, any>} [props]
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any} the element
 */
export function h(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(props)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Puts children in place of all that an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Work that is done once before the next picture, however often it is asked for. */
export function beforePaint(work) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      work();
    });
  };
}

/** Work that is done when nobody has asked for it for so many milliseconds. */
export function later(milliseconds, work) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), milliseconds);
  };
}

/** Gives a text to the clipboard; false where the browser forbids it. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyOld(text);
  }
}

// Without TLS on another machine than this one, browsers have the old way alone.
function copyOld(text) {
  const area = h("textarea.unseen", { readonly: true, "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

/** Lets the browser save a text as a file. */
export function save(name, text, type) {
  saveBlob(name, new Blob([text], { type }));
}

/** Lets the browser save bytes as a file. */
export function saveBlob(name, blob) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Something that the browser remembers; `null` where it may not. */
export const memory = {
  get(name) {
    try {
      return localStorage.getItem(`herd.${name}`);
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      if (value === null) localStorage.removeItem(`herd.${name}`);
      else localStorage.setItem(`herd.${name}`, value);
    } catch {
      // A browser that may not remember asks again next time.
    }
  },
};
