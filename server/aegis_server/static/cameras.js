// Pictures of the robot's cameras, the largest first.

import { $, make } from "./page.js";

export function cameras() {
  const pictures = new Map();
  return {
    /** Make room for a robot's cameras; null for no robot. */
    robot: (robot, policy) => {
      pictures.clear();
      const seen = new Set(policy.cameras.map((camera) => camera.name));
      const sorted = [...(robot?.cameras ?? [])].sort((a, b) => b.width * b.height - a.width * a.height);
      const figures = sorted.map(({ name, width, height }) => {
        const picture = make("img", { alt: `Live picture of the camera ${name}`, width, height });
        picture.style.setProperty("--ratio", `${width} / ${height}`);
        pictures.set(name, picture);
        const caption = seen.has(name) ? `${name} · policy` : name;
        return make("figure", {}, picture, make("figcaption", { textContent: caption }));
      });
      $("cameras").replaceChildren(...figures);
      $("cameras").classList.toggle("three", figures.length === 3);
    },
    frames: (frames) => {
      for (const [name, uri] of Object.entries(frames)) {
        const picture = pictures.get(name);
        if (picture && picture.src !== uri) picture.src = uri;
      }
    },
    /** The data URI of what a camera shows now. */
    shown: (name) => pictures.get(name)?.getAttribute("src") ?? null,
  };
}
