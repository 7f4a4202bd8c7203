// Puts what a person can read on the screen into the page's title, one line a text node, where the program picks it up:
// inside the window, not cut off by an ellipsis, not under a sheet.
const lines = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode, parent = node.parentElement;
  if (!node.data.trim() || parent.tagName === "SCRIPT") continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  const box = range.getBoundingClientRect();
  const inside = box.left >= 0 && box.top >= 0 && box.right <= innerWidth && box.bottom <= innerHeight;
  const first = range.getClientRects()[0];
  const top = document.elementFromPoint(first.left + first.width / 2, first.top + first.height / 2);
  const cut = parent.scrollWidth > parent.clientWidth + 1 && getComputedStyle(parent).overflow === "hidden";
  if (inside && !cut && top && (top === parent || parent.contains(top) || top.contains(parent) && !top.matches("main, body"))) lines.push(node.data);
}
document.title = lines.join("\n");
