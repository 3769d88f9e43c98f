// Returns what is wrong with the page, in words.
(() => {
	const wrong = [];
	const say = (what, e) => wrong.push(what + ": " + (e.outerHTML || e).slice(0, 120));
	const colour = text => {
		const n = text.match(/[\d.]+/g).map(Number);
		return { r: n[0], g: n[1], b: n[2], a: n.length > 3 ? n[3] : 1 };
	};
	const luminance = c => {
		const part = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
		return 0.2126 * part(c.r) + 0.7152 * part(c.g) + 0.0722 * part(c.b);
	};
	const contrast = (a, b) => {
		const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
		return (x + 0.05) / (y + 0.05);
	};
	const ground = e => {
		for (; e; e = e.parentElement) {
			const c = colour(getComputedStyle(e).backgroundColor);
			if (c.a === 1) return c;
		}
		return colour("rgb(255, 255, 255)");
	};
	const shown = e => e.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });

	let texts = 0;
	for (const e of document.body.querySelectorAll("*")) {
		if (!shown(e) || e.closest("svg")) continue;
		const text = [...e.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.data.trim());
		if (text || e.matches("input:not([type=hidden])")) {
			texts++;
			const ratio = contrast(colour(getComputedStyle(e).color), ground(e));
			if (ratio < 4.5) say("contrast " + ratio.toFixed(2), e);
			if (parseFloat(getComputedStyle(e).fontSize) < 13) say("small text", e);
		}
	}
	if (texts < 3) say("next to no text", document.body);
	for (const e of document.querySelectorAll("rect.value")) {
		const under = e.parentElement.querySelector(".ground");
		const ratio = contrast(colour(getComputedStyle(e).fill), colour(getComputedStyle(under).fill));
		if (ratio < 3) say("contrast of a bar " + ratio.toFixed(2), e);
	}
	for (const e of document.querySelectorAll("input[type=search]")) {
		const ratio = contrast(colour(getComputedStyle(e).borderColor), ground(e.parentElement));
		if (ratio < 3) say("contrast of a border " + ratio.toFixed(2), e);
	}
	for (const e of document.querySelectorAll("a, button, input:not([type=hidden]), summary")) {
		const box = e.getBoundingClientRect();
		if (shown(e) && !e.matches(".skip, p a, li p a") && (box.width < 24 || box.height < 24)) say("a small target", e);
		if (e.matches("input") && !(e.labels && e.labels.length)) say("no label", e);
		if (e.matches("a, button") && !e.innerText.trim() && !e.matches(".skip")) say("no name", e);
		if (e.matches("[tabindex]") && e.tabIndex > 0) say("a tab order of its own", e);
	}

	if (document.documentElement.lang !== "en") say("no language", "html");
	if (!document.title.trim()) say("no title", "html");
	if (document.querySelectorAll("main").length !== 1) say("not one main", "html");
	if (document.querySelectorAll("h1").length !== 1) say("not one h1", "html");
	let level = 1;
	for (const e of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
		const n = Number(e.tagName[1]);
		if (n > level + 1) say("a heading skips a level", e);
		level = n;
	}
	for (const e of document.querySelectorAll("nav, section, [role=region]")) {
		const by = e.getAttribute("aria-labelledby");
		if (!e.getAttribute("aria-label") && !(by && document.getElementById(by))) say("a landmark without a name", e);
	}
	for (const e of document.querySelectorAll("table")) {
		if (!e.caption || !e.caption.textContent.trim()) say("no caption", e);
		for (const th of e.querySelectorAll("th")) if (!th.scope) say("no scope", th);
	}
	for (const e of document.querySelectorAll("svg:not([aria-hidden=true])")) {
		const names = (e.getAttribute("aria-labelledby") || "").split(" ").map(id => document.getElementById(id));
		if (names.length !== 2 || names.some(n => !n || !n.textContent.trim())) say("a picture without a text", e);
	}
	const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
	for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) say("an ID twice", id);

	const width = document.documentElement.clientWidth;
	if (document.documentElement.scrollWidth > width) {
		say("wider than the screen", "html " + document.documentElement.scrollWidth + " > " + width);
		for (const e of document.body.querySelectorAll("*")) {
			if (shown(e) && e.getBoundingClientRect().right > width + 1 && !e.closest(".scroll, .skip")) say("sticks out", e);
		}
	}
	if (document.querySelector("script, [style], [onclick], link, img, iframe")) say("something that the policy forbids", "html");
	return wrong;
})()
