"""The style sheet of the report page."""

STYLE = """
:root{--ink:#1d1d1b;--soft:#6b6b66;--line:#dcdcd6;--page:#fdfdfb;--tint:#f3f3ee}
@media (prefers-color-scheme:dark){
 :root{--ink:#e6e6e1;--soft:#9c9c95;--line:#3a3a37;--page:#171716;--tint:#20201e}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
 font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:68rem;margin:0 auto;padding:2.5rem 1.25rem 5rem}
h1{font-size:1.9rem;line-height:1.2;font-weight:650;margin:0 0 .5rem;letter-spacing:-.01em}
h2{font-size:1.25rem;font-weight:650;margin:3rem 0 .5rem}
h3{font-size:1rem;font-weight:600;margin:1.75rem 0 .5rem}
h3 span{color:var(--soft);font-weight:400}
p{max-width:44rem;margin:.25rem 0 1rem}
header p{color:var(--soft);font-size:1.05rem}
code{font-size:.9em}
.scroll{overflow-x:auto;margin:0 -1.25rem;padding:0 1.25rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.92rem}
thead th{font-weight:500;color:var(--soft);font-size:.8rem;text-align:left;
 vertical-align:bottom;padding:.4rem .9rem .4rem 0;border-bottom:1px solid var(--ink)}
tbody th{font-weight:400;text-align:left;min-width:11rem;padding:.5rem .9rem .5rem 0;
 vertical-align:top}
tbody td{padding:.5rem .9rem .5rem 0;vertical-align:top;min-width:7rem}
tbody tr{border-bottom:1px solid var(--line)}
tr.part th{font-weight:650;padding-top:1.2rem}
td b{font-weight:600;display:block}
td small{display:block;color:var(--soft);font-size:.8rem;line-height:1.35;white-space:nowrap}
td.none,p.none{color:var(--soft);font-size:.8rem;max-width:11rem}
table.facts{width:auto}
table.facts th{color:var(--soft);padding-right:2rem}
table.facts td{overflow-wrap:anywhere;max-width:40rem}
.players{display:grid;grid-template-columns:repeat(auto-fill,minmax(18rem,1fr));gap:1.25rem 1rem}
.players+.players{margin-top:1.25rem}
.item{border-top:1px solid var(--line);padding-bottom:1rem}
figure{margin:0;display:flex;flex-direction:column;gap:.35rem;justify-content:flex-end}
figcaption{font-size:.8rem;line-height:1.35;color:var(--soft);margin-bottom:auto}
figcaption b{color:var(--ink);font-weight:600}
figure img{width:100%;height:5.5rem;background:var(--tint);border-radius:3px}
audio{width:100%;height:2.2rem}
img.plot{width:100%;height:auto;max-width:60rem}
details{margin-top:3rem}
summary{cursor:pointer;font-weight:650}
dl{margin:0;font-size:.9rem}
dt{margin-top:.8rem}
dd{margin:.1rem 0 0;color:var(--soft);max-width:52rem}
@media (max-width:34rem){main{padding-top:1.5rem}.players{grid-template-columns:1fr}}
"""
