// Puts what a person can read on each screen into the page's title, as JSON, where the program picks it up:
// a list of texts a screen, of those inside the screen, not cut off by the fold, not under a sheet.
const seen = [...document.querySelectorAll("section")].map(screen => {
  const frame = screen.getBoundingClientRect(), texts = [];
  const walker = document.createTreeWalker(screen, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    // Every line of a wrapped text has its own box; what lies on top of a box's ends is what the person sees there.
    const clear = [...range.getClientRects()].every(box => {
      const inside = box.left >= frame.left && box.right <= frame.right && box.top >= frame.top && box.bottom <= frame.bottom;
      const shows = y => parent.contains(document.elementFromPoint(box.left + box.width / 2, y));
      return inside && shows(box.top + 1) && shows(box.bottom - 1);
    });
    if (clear) texts.push(node.data);
  }
  return texts;
});
document.title = JSON.stringify(seen);
