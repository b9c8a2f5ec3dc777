"""The tabs of the web page, one file each; `src.serving.web.page` lists them in order."""
