// Pictures of the robot's cameras, the largest first. One that is no longer live says so.

import { $, SILENCE_MS, make, say } from "./page.js";

export function cameras() {
  const pictures = new Map();
  const live = ({ seen }) => performance.now() - seen < SILENCE_MS;
  return {
    /** Make room for a robot's cameras; null for no robot. */
    robot: (robot, policy) => {
      pictures.clear();
      const seen = new Set(policy.cameras.map((camera) => camera.name));
      const sorted = [...(robot?.cameras ?? [])].sort((a, b) => b.width * b.height - a.width * a.height);
      const figures = sorted.map(({ name, width, height }) => {
        const picture = make("img", { alt: `Live picture of the camera ${name}`, width, height });
        picture.style.setProperty("--ratio", `${width} / ${height}`);
        const figure = make("figure", {}, picture, make("figcaption"));
        pictures.set(name, { picture, figure, title: seen.has(name) ? `${name} · policy` : name, seen: performance.now() });
        return figure;
      });
      $("cameras").replaceChildren(...figures);
      $("cameras").classList.toggle("three", figures.length === 3);
    },
    frames: (frames) => {
      for (const [name, uri] of Object.entries(frames)) {
        const camera = pictures.get(name);
        if (!camera) continue;
        camera.seen = performance.now();
        if (camera.picture.src !== uri) camera.picture.src = uri;
      }
    },
    /** Say of each whether it is live. */
    look: () => {
      for (const camera of pictures.values()) {
        camera.figure.classList.toggle("old", !live(camera));
        say(camera.figure.lastChild, live(camera) ? camera.title : `${camera.title} · no picture comes`);
      }
    },
    /** The data URI of what a camera shows now, or null. */
    shown: (name) => {
      const camera = pictures.get(name);
      return camera && live(camera) ? camera.picture.getAttribute("src") : null;
    },
  };
}
