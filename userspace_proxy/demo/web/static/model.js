// What the server has told: its last snapshot, with all changes since.

const PLOT_TICKS = 120;

export const cluster = { nodes: {}, pods: {}, services: {}, deployments: {}, counters: {}, load: {} };
/** By Service, the connections and retries a second of the last ticks, the oldest first. */
export const rates = new Map();

export function snapshot(view) {
  Object.assign(cluster, view);
}

export function change(changes) {
  for (const [section, items] of Object.entries(changes)) {
    for (const [key, item] of Object.entries(items)) {
      if (item === null) delete cluster[section][key];
      else cluster[section][key] = item;
    }
  }
}

export function remember(tick) {
  for (const name of Object.keys(cluster.services)) {
    const rate = tick.services[name] ?? { opened: 0, failed: 0, retried: 0, refused: 0 };
    const past = rates.get(name) ?? [];
    past.push({ opened: rate.opened / tick.seconds, retried: rate.retried / tick.seconds });
    if (past.length > PLOT_TICKS) past.shift();
    rates.set(name, past);
  }
  for (const name of rates.keys()) if (!(name in cluster.services)) rates.delete(name);
}

/** The connections that all agents opened to a pod, and failed with. */
export function carriedBy(pod) {
  let opened = 0, failed = 0;
  for (const { targets } of Object.values(cluster.counters)) {
    const carried = targets[pod];
    if (carried) [opened, failed] = [opened + carried[0], failed + carried[1]];
  }
  return { opened, failed };
}

/** The short name of a pod: its app, and what tells it from the others. */
export function shortName(pod) {
  return pod.app && pod.name.startsWith(`${pod.app}-`) ? pod.name.split("-").pop() : pod.name;
}

export const sorted = (items) => Object.entries(items).sort(([a], [b]) => (a < b ? -1 : 1));
