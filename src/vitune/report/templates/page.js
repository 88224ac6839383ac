"use strict";
(() => {
  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; };
  // The drawings carry native titles; with scripts on they become a tooltip that appears at once and on touch.
  document.querySelectorAll("svg .tip > title").forEach((title) => {
    const text = title.textContent;
    const target = title.parentNode;
    title.remove();
    const show = (event) => {
      tip.textContent = text;
      tip.hidden = false;
      const box = tip.getBoundingClientRect();
      const right = document.documentElement.clientWidth - box.width - 8;
      tip.style.left = `${Math.max(8, Math.min(event.clientX + 12, right))}px`;
      tip.style.top = `${Math.max(8, event.clientY - box.height - 12)}px`;
    };
    target.addEventListener("focus", () => {
      const place = target.getBoundingClientRect();
      show({ clientX: place.right - 8, clientY: place.top });
    });
    target.addEventListener("blur", hide);
    target.addEventListener("pointerenter", show);
    target.addEventListener("pointermove", show);
    target.addEventListener("pointerleave", hide);
  });
  addEventListener("scroll", hide, { passive: true });

  // A table is sorted by the number or the text of a column; what was not measured stays below.
  document.querySelectorAll("table.sortable").forEach((table) => {
    const body = table.tBodies[0];
    const order = (cell) => {
      const value = cell.dataset.value ?? cell.textContent.trim();
      return value === "" ? null : Number.isNaN(Number(value)) ? value : Number(value);
    };
    table.querySelectorAll("thead th").forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const first = head.dataset.first ?? "ascending";
        const other = first === "ascending" ? "descending" : "ascending";
        const way = head.getAttribute("aria-sort") === first ? other : first;
        table.querySelectorAll("thead th").forEach((each) => { each.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", way);
        const sign = way === "ascending" ? 1 : -1;
        const rows = [...body.rows].map((row) => [order(row.cells[column]), row]);
        rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * (a < b ? -1 : a > b ? 1 : 0)));
        body.append(...rows.map(([, row]) => row));
      });
    });
  });

  document.querySelectorAll("pre.command").forEach((block) => {
    if (!navigator.clipboard) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.textContent.trim());
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    block.before(button);
  });

  // A link to a run opens it; printing opens everything and closes it again.
  const openTarget = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    const details = target && target.closest("details");
    if (details) details.open = true;
  };
  addEventListener("hashchange", openTarget);
  openTarget();
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => { opened.forEach((details) => { details.open = false; }); });
})();
