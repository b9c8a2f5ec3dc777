// Keys of the page. Escape presses the Stop button that is on show. An Enter that ends the writing of a Chinese word in
// an input method is kept from sending the message.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.isComposing || event.keyCode === 229)) {
    event.stopImmediatePropagation();
  } else if (event.key === "Escape" && !event.isComposing) {
    const shown = [...document.querySelectorAll("button.stop, .stop button")].find((button) => button.offsetParent);
    if (shown) shown.click();
  }
}, true);
