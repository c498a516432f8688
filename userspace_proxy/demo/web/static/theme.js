// Light, dark, or as the system has it; remembered for this cluster's page.

import { byId, say } from "./dom.js";

const THEMES = ["system", "light", "dark"];

export function beginThemes() {
  const button = byId("theme");
  let theme = sessionStorage.getItem("theme") ?? "system";
  const apply = () => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    say(button, `${theme[0].toUpperCase()}${theme.slice(1)} theme`);
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    sessionStorage.setItem("theme", theme);
    apply();
  });
  apply();
}
