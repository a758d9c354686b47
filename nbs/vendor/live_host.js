// Shows the live figures of a static page: gives each the model object that anywidget gives it in
// JupyterLab, with no kernel behind. liveFigures (the modules) and liveData (files in base64) come
// from the scripts that tools/docs.py puts before this one.
(() => {
  const folder = document.currentScript.src.replace(/[^/]*$/, '');
  const decode = text =>
    new DataView(Uint8Array.from(atob(text), character => character.charCodeAt(0)).buffer);
  const fetchData = file => new Promise((resolve, reject) => {      // also works from file://
    if (liveData[file]) return resolve(decode(liveData[file]));
    const onload = () => resolve(decode(liveData[file]));
    const script = Object.assign(document.createElement('script'), {onload});
    script.src = `${folder}${file}.js`;
    script.onerror = () => reject(new Error(`${file} could not be loaded`));
    return document.body.append(script);
  });

  function modelOf(state, later) {
    const listeners = {};
    return {
      get: name => state[name],
      set(name, value) {
        state[name] = value;
        (listeners[`change:${name}`] || []).forEach(listener => listener());
      },
      on: (event, listener) => (listeners[event] ||= []).push(listener),
      off(event, listener) {
        listeners[event] = (listeners[event] || []).filter(other => other !== listener);
      },
      save_changes() {},
      load: later && (name => fetchData(later[name])),     // files that are large and seldom used
    };
  }

  for (const el of document.querySelectorAll('.live-figure')) {
    const {state, files, later} = Object.fromEntries(
      ['state', 'files', 'later'].map(key => [key, JSON.parse(el.dataset[key])]));
    for (const [trait, file] of Object.entries(files)) state[trait] = decode(liveData[file]);
    el.model = modelOf(state, Object.keys(later).length ? later : null);
    liveFigures[el.dataset.figure].render({model: el.model, el});
    el.dataset.drawn = Math.round(performance.now());
  }
})();
