// Making elements, and keeping those that stay: whoever has the focus keeps it.

export const byId = (id) => document.getElementById(id);

/** An element with properties (`class`, `on…`, attributes) and children, text or elements. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Have `text` be what an element says; untouched if it says so already. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Have an attribute be so; null removes it. */
export function set(element, name, value) {
  if (value == null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Have a parent's children be one for each key, in this order; `make` a new one, `update` each. */
export function keep(parent, entries, make, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const [key, item] of entries) {
    let child = old.get(key);
    if (child) old.delete(key);
    else {
      child = make(key, item);
      child.dataset.key = key;
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update(child, item, key);
  }
  for (const child of old.values()) child.remove();
}

/** Have a select offer these values, and keep what is chosen. */
export function offer(select, values) {
  if ([...select.options].map((option) => option.value).join() === values.join()) return;
  const chosen = select.value;
  select.replaceChildren(...values.map((value) => h("option", { value }, value.replace(/^default\//, ""))));
  if (values.includes(chosen)) select.value = chosen;
}

export const count = (number) => number.toLocaleString("en");
