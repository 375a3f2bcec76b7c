// Sets the theme before the first paint. `farshore.theme` is "light", "dark" or absent (as the system has it).
;(function () {
  var chosen = null
  try {
    chosen = localStorage.getItem('farshore.theme')
  } catch {
    // Storage may be denied; the system's theme is used then.
  }
  var dark =
    chosen === 'dark' || (chosen !== 'light' && matchMedia('(prefers-color-scheme: dark)').matches)
  document.documentElement.dataset.theme = dark ? 'dark' : 'light'
})()
