// Connections as dots: from the client's pod to its node's agent, to the Service, to an endpoint. One that an
// endpoint failed turns into a red cross and goes on to another. Who prefers reduced motion sees lines instead.

import { byId } from "./dom.js";
import { cluster } from "./model.js";
import { agentOf, elementOf } from "./stage.js";

const MOST = 240;
const MOST_PER_FLOW = 12;
const LEG_MILLISECONDS = 420;

const canvas = byId("dots");
const context = canvas.getContext("2d");
const still = matchMedia("(prefers-reduced-motion: reduce)");
let dots = [];
let isDrawing = false;

/** Have what went on in a tick travel. */
export function travel(tick) {
  if (document.hidden) return;
  const now = performance.now();
  const spread = tick.seconds * 1000;
  for (const [place, flows] of grouped(tick.flows)) {
    const good = flows.filter((flow) => flow.opened);
    const turns = good.flatMap((flow) => Array(Math.min(flow.opened, MOST_PER_FLOW)).fill(flow.target));
    const bad = flows.flatMap((flow) => Array(Math.min(flow.failed, MOST_PER_FLOW)).fill(flow.target));
    shuffle(turns);
    const all = Math.max(turns.length, bad.length);
    for (let index = 0; index < all && dots.length < MOST; index++) {
      const stops = [...origin(place.node, place.service), `service:${place.service}`];
      if (bad[index]) stops.push(`!pod:${bad[index]}`);
      if (turns[index]) stops.push(`pod:${turns[index]}`);
      dots.push({ stops, begins: now + (index / all) * spread });
    }
  }
  if (dots.length && !isDrawing) {
    isDrawing = true;
    requestAnimationFrame(frame);
  }
}

function grouped(flows) {
  const groups = new Map();
  for (const flow of flows) {
    const key = `${flow.node} ${flow.service}`;
    if (!groups.has(key)) groups.set(key, [{ node: flow.node, service: flow.service }, []]);
    groups.get(key)[1].push(flow);
  }
  return groups.values();
}

function shuffle(list) {
  for (let index = list.length - 1; index > 0; index--) {
    const other = Math.floor(Math.random() * (index + 1));
    [list[index], list[other]] = [list[other], list[index]];
  }
}

/** Where connections of a node's agent come from: the client that sends requests is known, others are not. */
function origin(node, service) {
  const { load } = cluster.load;
  const isOurs = load?.perSecond && load.service === service && cluster.pods[load.client]?.node === node;
  return isOurs ? [`pod:${load.client}`, `agent:${node}`] : [`agent:${node}`];
}

function placeOf(stop, box) {
  const what = stop.replace(/^!/, "");
  const element = what.startsWith("agent:") ? agentOf(what.slice(6)) : elementOf(what);
  if (!element) return null;
  const at = (element.querySelector(".mark") ?? element).getBoundingClientRect();
  const down = what.startsWith("service:") ? at.height - 6 : at.height / 2;
  return { x: at.left - box.left + at.width / 2, y: at.top - box.top + down, isBad: stop !== what };
}

function frame(now) {
  const box = byId("stage").getBoundingClientRect();
  const scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(box.width * scale) || canvas.height !== Math.round(box.height * scale)) {
    canvas.width = Math.round(box.width * scale);
    canvas.height = Math.round(box.height * scale);
  }
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, box.width, box.height);
  const style = getComputedStyle(document.documentElement);
  const colours = { good: style.getPropertyValue("--dot"), bad: style.getPropertyValue("--bad") };
  const places = new Map();
  const at = (stop) => {
    if (!places.has(stop)) places.set(stop, placeOf(stop, box));
    return places.get(stop);
  };
  dots = dots.filter((dot) => (still.matches ? drawLines : drawDot)(dot, now, at, colours));
  if (dots.length) requestAnimationFrame(frame);
  else {
    isDrawing = false;
    context.clearRect(0, 0, box.width, box.height);
  }
}

function drawDot(dot, now, at, colours) {
  const gone = (now - dot.begins) / LEG_MILLISECONDS;
  if (gone < 0) return true;
  const leg = Math.floor(gone);
  const stops = dot.stops.map(at).filter(Boolean);
  if (leg >= stops.length) return false;
  if (leg === stops.length - 1) {
    ring(stops[leg], gone - leg, stops[leg].isBad ? colours.bad : colours.good);
    return true;
  }
  const part = gone - leg, eased = part * part * (3 - 2 * part);
  const [from, to] = [stops[leg], stops[leg + 1]];
  const x = from.x + (to.x - from.x) * eased, y = from.y + (to.y - from.y) * eased;
  const hasFailed = stops.slice(0, leg + 1).some((stop) => stop.isBad);
  if (hasFailed) cross(x, y, colours.bad);
  else disc(x, y, 3.5, colours.good);
  if (from.isBad) ring(from, part, colours.bad);
  return true;
}

/** Where nothing is to move: the ways, for as long as a dot would be under way. */
function drawLines(dot, now, at, colours) {
  const gone = (now - dot.begins) / LEG_MILLISECONDS;
  if (gone < 0) return true;
  const [from, ...to] = dot.stops.map(at).filter(Boolean).slice(-1 - dot.stops.filter((stop) => /^!?pod:/.test(stop)).length);
  for (const place of to) {
    context.beginPath();
    context.setLineDash(place.isBad ? [4, 4] : []);
    context.moveTo(from.x, from.y);
    context.lineTo(place.x, place.y);
    context.strokeStyle = place.isBad ? colours.bad : colours.good;
    context.lineWidth = 1.5;
    context.stroke();
  }
  context.setLineDash([]);
  return gone < 2;
}

function disc(x, y, radius, colour) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = colour;
  context.fill();
}

function ring(place, part, colour) {
  context.beginPath();
  context.arc(place.x, place.y, 4 + 10 * part, 0, 2 * Math.PI);
  context.strokeStyle = colour;
  context.globalAlpha = 1 - part;
  context.lineWidth = 2;
  context.stroke();
  context.globalAlpha = 1;
}

function cross(x, y, colour) {
  context.beginPath();
  context.moveTo(x - 4, y - 4);
  context.lineTo(x + 4, y + 4);
  context.moveTo(x + 4, y - 4);
  context.lineTo(x - 4, y + 4);
  context.strokeStyle = colour;
  context.lineWidth = 2.5;
  context.stroke();
}
