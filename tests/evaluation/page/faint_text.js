// Text whose contrast with what lies behind it is below WCAG 2's 4.5, or 3 where it is large.
(() => {
  const parts = (colour) => colour.match(/[\d.]+/g).map(Number);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      const [, , , opacity = 1] = parts(colour);
      if (opacity > 0.5) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  for (const element of document.querySelectorAll("main *, nav *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    const ground = behind(element);
    const [a, b] = [light(colour), light(ground)].sort((x, y) => y - x);
    const needed = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    const text = element.textContent.trim().slice(0, 30);
    if ((a + 0.05) / (b + 0.05) < needed) faint.push(`${text}: ${colour} on ${ground}`);
  }
  return faint;
})();
