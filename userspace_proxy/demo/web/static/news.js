// What happens, in words, the latest first; readers of screens hear each sentence once.

import { byId, h } from "./dom.js";

const MOST = 40;

export function tell(sentence) {
  const list = byId("news");
  const time = new Date().toLocaleTimeString("en-GB");
  list.prepend(h("li", {}, h("time", {}, time), ` ${sentence}`));
  while (list.children.length > MOST) list.lastElementChild.remove();
}
