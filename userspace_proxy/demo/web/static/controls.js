// The two sliders: how many requests are sent to which Service, and how many pods a Deployment has.

import { act } from "./actions.js";
import { byId, count, offer, say } from "./dom.js";
import { cluster } from "./model.js";

const [aim, rate, deployment, replicas] = ["aim", "rate", "deployment", "replicas"].map(byId);
const WAIT_MILLISECONDS = 150;
let scaledTo = null;

/** Call `act` once a slider has rested for a moment. */
function rested(act_) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act_, WAIT_MILLISECONDS);
  };
}

const send = rested(() => act("load", { service: aim.value, perSecond: rate.valueAsNumber }));
const scale = rested(async () => {
  const wanted = replicas.valueAsNumber;
  await act(`deployments/${deployment.value}/scale`, { replicas: wanted });
  if (wanted === scaledTo) scaledTo = null;
});

byId("controls").addEventListener("submit", (event) => event.preventDefault());
rate.addEventListener("input", send);
aim.addEventListener("change", () => rate.valueAsNumber && send());
replicas.addEventListener("input", () => {
  scaledTo = replicas.valueAsNumber;
  drawControls();
  scale();
});
deployment.addEventListener("change", drawControls);

export function drawControls() {
  const aims = Object.entries(cluster.services).filter(([, service]) => service.takesRequests && !service.isSystem);
  offer(aim, aims.map(([key]) => key).sort());
  offer(deployment, Object.keys(cluster.deployments).sort());
  rate.disabled = !aims.length;
  const { load } = cluster.load;
  if (load) say(byId("sending"), load.problem || spoken(load));
  if (load && document.activeElement !== rate) rate.value = load.perSecond; // another viewer may have set it
  const shown = cluster.deployments[deployment.value];
  replicas.disabled = !shown;
  if (!shown) return;
  if (scaledTo === null) replicas.value = shown.replicas;
  replicas.max = Math.max(12, shown.replicas);
  say(byId("scaled"), `${shown.ready} of ${scaledTo ?? shown.replicas} ready`);
}

function spoken(load) {
  if (!load.perSecond) return "none are sent";
  const median = load.medianMilliseconds === null ? "" : ` · median ${load.medianMilliseconds} ms`;
  return `${load.perSecond}/s · ${count(load.answered)} answered · ${count(load.failed)} failed${median}`;
}

/** After the connection was lost: the server has forgotten what it was to send. */
export function forgetSending() {
  rate.value = 0;
}
