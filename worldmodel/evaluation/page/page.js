"use strict";
// Keeps a playhead, and a dot on each curve, in step with the video beside them. Without this
// script everything else on the page works; the playhead then stands at the still that is shown.
for (const block of document.querySelectorAll(".block")) {
  const video = block.querySelector("video");
  const chart = block.querySelector("svg.chart");
  if (!video) continue;
  const head = chart.querySelector(".playhead");
  const [left, right, seconds] = ["left", "right", "seconds"].map((name) => Number(chart.dataset[name]));
  const curves = [...chart.querySelectorAll("polyline")].map((line) => ({
    dot: chart.querySelector("circle." + line.classList[1]),
    points: [...line.points],
  }));

  const show = () => {
    const x = left + (right - left) * Math.min(video.currentTime / seconds, 1);
    head.setAttribute("x1", x);
    head.setAttribute("x2", x);
    for (const { dot, points } of curves) {
      const next = points.findIndex((point) => point.x >= x);
      const known = next > 0 || (next === 0 && points[0].x === x);
      dot.setAttribute("visibility", known ? "visible" : "hidden");
      if (!known) continue;
      const [a, b] = [points[Math.max(next - 1, 0)], points[next]];
      const share = b.x > a.x ? (x - a.x) / (b.x - a.x) : 1;
      dot.setAttribute("cx", x);
      dot.setAttribute("cy", a.y + share * (b.y - a.y));
    }
  };
  const follow = () => {
    show();
    if (!video.paused) requestAnimationFrame(follow);
  };
  video.addEventListener("play", () => {
    for (const other of document.querySelectorAll("video")) if (other !== video) other.pause();
    follow();
  });
  for (const name of ["seeking", "seeked", "pause"]) video.addEventListener(name, show);

  const seek = (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
    const share = Math.min(Math.max((x - left) / (right - left), 0), 0.999);
    video.pause();
    video.currentTime = share * seconds;
  };
  chart.addEventListener("pointerdown", seek);
  chart.addEventListener("pointermove", (event) => {
    if (event.buttons) seek(event);
  });
}
// On paper nothing can be opened.
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
});
