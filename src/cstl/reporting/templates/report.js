"use strict";
// The page works without this script: it then shows the still pictures and the first frame of every sequence.
(() => {
  const root = document.documentElement;
  const all = (selector) => Array.from(document.querySelectorAll(selector));
  const plots = [];

  // Theme: the system's until the reader chooses.
  const button = document.querySelector("[data-theme-button]");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  function themed(layout) {
    const ink = colour("--ink"), line = colour("--line"), card = colour("--card");
    const change = {
      "font.color": ink, "hoverlabel.bgcolor": card, "hoverlabel.bordercolor": line, "hoverlabel.font.color": ink,
    };
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
      Object.assign(change, { [`${axis}.gridcolor`]: line, [`${axis}.zerolinecolor`]: line, [`${axis}.linecolor`]: line });
    }
    return change;
  }

  function showTheme() {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
    for (const plot of plots) Plotly.relayout(plot, themed(plot.layout));
  }
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  system.addEventListener("change", showTheme);

  // Plots.
  const zooms = all("[data-zoom]");
  const dragZooms = (plot) => zooms.some((one) => one.closest("section").contains(plot) && one.ariaPressed === "true");
  if (matchMedia("(pointer: coarse)").matches) for (const one of zooms) one.ariaPressed = "false"; // a drag scrolls there
  for (const one of zooms) {
    one.addEventListener("click", () => {
      one.ariaPressed = one.ariaPressed === "true" ? "false" : "true";
      for (const plot of plots.filter((plot) => one.closest("section").contains(plot))) {
        Plotly.relayout(plot, { dragmode: dragZooms(plot) ? "zoom" : false });
      }
    });
  }
  function draw(plot, figure) {
    const narrow = plot.clientWidth < 420;
    const layout = Object.assign({ plot_bgcolor: "rgba(0,0,0,0)" }, figure.layout, {
      autosize: true, paper_bgcolor: "rgba(0,0,0,0)",
      font: { size: narrow ? 10 : 12, family: getComputedStyle(document.body).fontFamily },
      margin: { l: 55, r: 12, t: 10, b: 50 },
      dragmode: dragZooms(plot) ? "zoom" : false,
      legend: Object.assign({ orientation: "h", y: -0.25, yanchor: "top" }, figure.layout.legend),
    });
    for (const name of ["xaxis", "yaxis"]) layout[name] = Object.assign({ automargin: true }, layout[name]);
    return Plotly.newPlot(plot, figure.data, layout, { displayModeBar: false, responsive: true }).then(() => {
      plot.ranges = {};
      for (const name of ["xaxis", "yaxis"]) {
        const axis = figure.layout[name] || {};
        plot.ranges[name] = axis.range ? { range: axis.range } : { autorange: axis.autorange || true };
      }
      plot.smooth = plot.data.map((trace, i) => (trace.meta === "smooth" ? { i, y: Array.from(trace.y) } : null)).filter(Boolean);
      plots.push(plot);
      plot.on("plotly_relayout", () => wholeTicks(plot));
      return Plotly.relayout(plot, themed(plot.layout));
    });
  }

  // Between two iterations, frames or parts there is nothing to tick.
  function wholeTicks(plot) {
    for (const name of ["xaxis", "yaxis"]) {
      const axis = plot.layout[name];
      if (!["iteration", "frame", "part"].includes(axis.title && axis.title.text)) continue;
      const each = Math.abs(axis.range[1] - axis.range[0]) < 12;
      if (each !== (axis.tickmode === "linear")) {
        Plotly.relayout(plot, { [`${name}.tickmode`]: each ? "linear" : "auto", [`${name}.tick0`]: 0, [`${name}.dtick`]: 1 });
      }
    }
  }

  function reset(plot) {
    const change = {};
    for (const [name, range] of Object.entries(plot.ranges)) {
      for (const [key, value] of Object.entries(range)) change[`${name}.${key}`] = value;
    }
    Plotly.relayout(plot, change);
  }
  for (const one of all("[data-reset]")) {
    one.addEventListener("click", () => plots.filter((plot) => one.closest("section").contains(plot)).forEach(reset));
  }

  // An exponential moving average, divided by the weight it has gathered, so that it starts without bias.
  function smoothed(values, weight) {
    let mean = 0, gathered = 0;
    return values.map((value) => {
      if (value === null) return null;
      mean = weight * mean + (1 - weight) * value;
      gathered = weight * gathered + (1 - weight);
      return mean / gathered;
    });
  }
  for (const slider of all('[id^="smoothing"]')) {
    slider.addEventListener("input", () => {
      const weight = Number(slider.value);
      slider.closest("p").querySelector("output").textContent = weight.toFixed(2);
      for (const plot of plots.filter((plot) => slider.closest("section").contains(plot) && plot.smooth.length)) {
        Plotly.restyle(plot, { y: plot.smooth.map((trace) => smoothed(trace.y, weight)) }, plot.smooth.map((trace) => trace.i));
      }
    });
  }

  // Moving silhouettes: one clock for all, so that sequences side by side stay in step.
  const moving = all(".motion img");
  const seeks = all("[data-seek]"), plays = all("[data-play]");
  const pace = 1000 / 12; // milliseconds a frame: half the speed at which CASIA-B was taken
  let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches, frame = 0, last = 0;

  function show() {
    for (const image of moving) {
      const frames = Number(image.dataset.frames);
      image.style.transform = `translateX(${(-100 * (frame % frames)) / frames}%)`;
    }
    for (const seek of seeks) {
      seek.value = frame % (Number(seek.max) + 1);
      seek.closest("p").querySelector("output").textContent = seek.value;
    }
  }
  function tick(now) {
    if (!playing) return;
    if (now - last >= pace) {
      last = now;
      frame += 1;
      show();
    }
    requestAnimationFrame(tick);
  }
  function play(on) {
    playing = on;
    for (const one of plays) one.textContent = on ? "Pause" : "Play";
    if (on) requestAnimationFrame(tick);
  }
  for (const one of plays) one.addEventListener("click", () => play(!playing));
  for (const seek of seeks) {
    seek.addEventListener("input", () => {
      play(false);
      frame = Number(seek.value);
      show();
    });
  }

  // Plotly is packed in this file, so that it can be sent by mail.
  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }
  async function start() {
    root.classList.add("scripted");
    show();
    play(playing);
    await unpack(document.getElementById("plotly").textContent);
    root.classList.add("interactive");
    for (const data of all("script[data-for]")) {
      await draw(document.getElementById(data.dataset.for), JSON.parse(data.textContent));
    }
    showTheme();
    root.dataset.ready = "true";
  }
  start().catch((error) => {
    root.classList.remove("interactive");
    console.error(`the interactive plots cannot be shown: ${error}`);
  });
})();
