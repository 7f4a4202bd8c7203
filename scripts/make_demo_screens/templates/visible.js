// Puts what a person can read on the screen into the page's title, one line a text node, where the program picks it up:
// inside the window, not cut off by an ellipsis or the fold, not under a sheet.
const lines = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode, parent = node.parentElement;
  if (!node.data.trim() || parent.tagName === "SCRIPT") continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  // Every line of a wrapped text has its own box; what lies on top of a box's middle is what the person sees there.
  const seen = [...range.getClientRects()].every(box =>
    box.left >= 0 && box.right <= innerWidth && parent.contains(document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2)));
  const cut = parent.scrollWidth > parent.clientWidth + 1 && getComputedStyle(parent).overflow === "hidden";
  if (seen && !cut) lines.push(node.data);
}
document.title = lines.join("\n");
