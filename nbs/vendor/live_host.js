// Shows the live figures of a static page: gives each the model object that anywidget gives it in JupyterLab, with no kernel behind.
// liveFigures (the modules) and liveData (files in base64) come from the scripts that tools/docs.py puts before this one.
(() => {
  const decode = text => new DataView(Uint8Array.from(atob(text), character => character.charCodeAt(0)).buffer);
  function modelOf(state) {
    const listeners = {};
    return {
      get: name => state[name],
      set: (name, value) => { state[name] = value; (listeners[`change:${name}`] || []).forEach(listener => listener()); },
      on: (event, listener) => (listeners[event] ||= []).push(listener),
      off: (event, listener) => { listeners[event] = (listeners[event] || []).filter(other => other !== listener); },
      save_changes() {},
    };
  }
  for (const el of document.querySelectorAll('.live-figure')) {
    const state = JSON.parse(el.dataset.state);
    for (const [trait, file] of Object.entries(JSON.parse(el.dataset.files))) state[trait] = decode(liveData[file]);
    el.model = modelOf(state);
    liveFigures[el.dataset.figure].render({model: el.model, el});
    el.dataset.drawn = Math.round(performance.now());
  }
})();
