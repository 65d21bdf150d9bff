// Who looks at the page, and what they may do. Without a session and with one refused there is only the sign-in form.
import { onSignedOut, get, post, remove } from './api.js';
import { byId, setText } from './dom.js';

let role = 'read';
let contents = false;

/** Whether buttons that change something are shown at all. The API decides; this only spares people refusals. */
export const mayOperate = () => role === 'operate';

/** Whether contents of messages are shown. */
export const mayRead = () => contents;

/** Learns who this is. False: the sign-in form is shown, and nothing else should be asked for. */
export async function begin() {
  onSignedOut(showForm);
  byId('sign-in').addEventListener('submit', signIn);
  byId('sign-out').addEventListener('click', signOut);
  let who;
  try {
    who = await get('/session');
  } catch (problem) {
    if (problem.status === 401) {
      showForm();
      return false;
    }
    throw problem;
  }
  role = who.role;
  contents = who.contents === true;
  document.body.dataset.role = role;
  if (!mayOperate()) for (const element of document.querySelectorAll('[data-operate]')) element.remove();
  setText(byId('who'), mayOperate() ? who.name : `${who.name} (read only)`);
  // Nobody signed in to be one of these.
  byId('sign-out').hidden = ['local', 'loopback'].includes(who.name);
  return true;
}

function showForm() {
  if (!byId('sign-in').hidden) return;
  document.body.dataset.role = 'none';
  if (byId('ask').open) byId('ask').close('cancel'); // it may show mail
  byId('sign-in').hidden = false;
  byId('token').focus();
}

async function signIn(event) {
  event.preventDefault();
  const trouble = byId('sign-in').querySelector('.trouble');
  setText(trouble, '');
  try {
    await post('/session', { token: byId('token').value.trim() });
    location.reload();
  } catch (problem) {
    setText(trouble, problem.status === 401 ? 'The relay does not know this token.' : problem.message);
    byId('token').select();
  }
}

async function signOut() {
  // Whatever the relay says to it, the page shows no more mail.
  await remove('/session').catch(() => null);
  location.reload();
}
