try {
  var chosen = localStorage.getItem('cait-theme');
  if (chosen === 'dark' || chosen === 'light') document.documentElement.dataset.theme = chosen;
} catch (denied) { /* a file opened from a mail may have no storage */ }
document.documentElement.classList.add('scripted');
