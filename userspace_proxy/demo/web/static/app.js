// The page: it draws what the server tells, and tells the server what somebody wants.

import { drawControls, forgetSending } from "./controls.js";
import { drawDetail, show } from "./detail.js";
import { byId, say } from "./dom.js";
import { travel } from "./dots.js";
import { change, remember, snapshot } from "./model.js";
import { tell } from "./news.js";
import { draw, onChoose } from "./stage.js";
import { beginThemes } from "./theme.js";

let isAsked = false;

/** Draw all, once before the next frame. */
function drawSoon() {
  if (isAsked) return;
  isAsked = true;
  const drawAll = () => {
    isAsked = false;
    draw();
    drawControls();
    drawDetail();
  };
  if (document.hidden) setTimeout(drawAll);
  else requestAnimationFrame(drawAll);
}

function connect() {
  const events = new EventSource("events");
  const on = (name, act) => events.addEventListener(name, (event) => act(JSON.parse(event.data)));
  on("snapshot", (view) => {
    snapshot(view);
    say(byId("connection"), "live");
    document.body.dataset.connection = "live";
    drawSoon();
  });
  on("changes", (changes) => {
    change(changes);
    drawSoon();
  });
  on("tick", (tick) => {
    remember(tick);
    travel(tick);
    drawSoon();
  });
  on("news", tell);
  events.addEventListener("error", () => {
    say(byId("connection"), "connection lost, trying again");
    document.body.dataset.connection = "lost";
    forgetSending();
  });
}

beginThemes();
onChoose(show);
connect();
