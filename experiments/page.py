"""The frame of a report: its HTML and style sheet, for `experiments.report`.

The content policy forbids every request, so that a page which needs something from elsewhere fails at once.
"""

from string import Template

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; media-src data:;
 style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { --paper: #fff; --ink: #1c2430; --muted: #5b6470; --rule: #dfe3e8; --tint: #f5f7f9; --link: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181d; --ink: #e4e8ec; --muted: #9aa5b1; --rule: #2c343d; --tint: #1b2027; --link: #6cb8e6; }
  img.drawing { filter: invert(.92) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 800px; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 0 0 .75rem; font-size: 1.2rem; line-height: 1.3; }
p { margin: 0 0 1rem; max-width: 42rem; white-space: pre-line; overflow-wrap: break-word; }
header p { margin: .6rem 0 1rem; color: var(--muted); font-size: 1.1rem; line-height: 1.5; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; font-size: .9rem; }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
section { margin-top: 2.25rem; padding-top: 1.5rem; border-top: 1px solid var(--rule); }
figure { margin: 1.25rem 0; }
figcaption { margin-top: .4rem; max-width: 42rem; color: var(--muted); font-size: .875rem; line-height: 1.45; }
.scroll { overflow-x: auto; }
img { display: block; max-width: 100%; height: auto; }
img.photograph { border-radius: 6px; }
video { display: block; max-width: 100%; border-radius: 6px; background: #000; }
.facts { display: flex; flex-wrap: wrap; gap: .75rem 2.5rem; margin: 0 0 1.25rem; }
.facts b { display: block; font-size: 1.6rem; font-weight: 600; line-height: 1.2; font-variant-numeric: tabular-nums; }
.facts span { color: var(--muted); font-size: .875rem; }
table { border-collapse: collapse; min-width: 60%; font-size: .9rem; line-height: 1.4;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem 1.25rem .4rem 0; text-align: left; vertical-align: baseline;
  border-bottom: 1px solid var(--rule); white-space: pre-line; }
th { color: var(--muted); font-weight: 500; }
td { overflow-wrap: break-word; }
td:first-child { min-width: 7rem; }
.number { text-align: right; white-space: nowrap; }
.number small { display: block; }
th:last-child, td:last-child { padding-right: .25rem; }
small { color: var(--muted); font-size: .8rem; }
pre { margin: 0 0 1rem; padding: .8rem 1rem; overflow-x: auto; border-radius: 6px; background: var(--tint);
  font: .85rem/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
#s$last table { font-size: .8rem; }
#s$last td:last-child { overflow-wrap: anywhere; color: var(--muted); }
@media (max-width: 620px) {
  body { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.45rem; }
  .scroll > img { max-width: 38rem; }  /* small print stays readable; the figure scrolls */
}
@media print { body { max-width: none; } nav { display: none; } section, figure { break-inside: avoid; } }
</style>
</head>
<body>
<header><h1>$title</h1><p>$lead</p><nav>$links</nav></header>
<main>
$sections</main>
</body>
</html>
""")
