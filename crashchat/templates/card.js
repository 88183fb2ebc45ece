// A click on a button or film strip plays the video from the crash, one on a timeline from that moment; on a focused
// timeline the arrow keys choose the moment and Enter or space plays from it.
function playFrom(card, at) {
  const box = card.querySelector(".cc-video");
  if (!box) return;
  const video = box.querySelector("video");
  box.hidden = false;
  video.onerror = () => { box.querySelector(".cc-unplayable").hidden = false; };
  const play = () => { video.currentTime = at; video.play().catch(() => {}); };
  if (video.readyState >= 1) play();
  else { video.addEventListener("loadedmetadata", play, { once: true }); video.load(); }
}
document.addEventListener("click", (event) => {
  const target = event.target.closest(".cc-play, .cc-strip, .cc-lane");
  if (!target) return;
  let at = Number(target.dataset.at);
  if (target.matches(".cc-lane")) {
    const place = target.getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - place.left) / place.width, 0), 1);
    at = Number(target.dataset.start) + share * (target.dataset.end - target.dataset.start);
  }
  playFrom(target.closest(".cc-clip"), at);
});
document.addEventListener("keydown", (event) => {
  if (!event.target.matches(".cc-lane[role=slider]")) return;
  const lane = event.target, first = Number(lane.dataset.start), last = Number(lane.dataset.end);
  const now = Number(lane.getAttribute("aria-valuenow")), step = Math.max((last - first) / 50, 0.1);
  const places = { ArrowRight: now + step, ArrowUp: now + step, ArrowLeft: now - step, ArrowDown: now - step,
    PageUp: now + 5 * step, PageDown: now - 5 * step, Home: first, End: last };
  if (event.key === "Enter" || event.key === " ") playFrom(lane.closest(".cc-clip"), now);
  else if (!(event.key in places)) return;
  else {
    const at = Math.min(Math.max(places[event.key], first), last);
    lane.setAttribute("aria-valuenow", at.toFixed(1));
    lane.setAttribute("aria-valuetext", `${at.toFixed(1)} s`);
  }
  event.preventDefault();
});
