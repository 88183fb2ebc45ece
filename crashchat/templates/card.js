// A click on a button or film strip plays the video from the crash, one on a timeline from that moment.
document.addEventListener("click", (event) => {
  const target = event.target.closest(".cc-play, .cc-strip, .cc-lane");
  const box = target && target.closest(".cc-clip").querySelector(".cc-video");
  if (!box) return;
  let at = Number(target.dataset.at);
  if (target.matches(".cc-lane")) {
    const place = target.getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - place.left) / place.width, 0), 1);
    at = Number(target.dataset.start) + share * (target.dataset.end - target.dataset.start);
  }
  const video = box.querySelector("video");
  box.hidden = false;
  video.onerror = () => { box.querySelector(".cc-unplayable").hidden = false; };
  const play = () => { video.currentTime = at; video.play().catch(() => {}); };
  if (video.readyState >= 1) play();
  else { video.addEventListener("loadedmetadata", play, { once: true }); video.load(); }
});
