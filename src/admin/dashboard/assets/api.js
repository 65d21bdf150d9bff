// The one way to the relay's API. Every refusal becomes a Problem with a sentence that can be shown.

/** What went wrong with a request: an RFC 9457 document, or the words for an answer that never came (status 0). */
export class Problem extends Error {
  constructor(status, { title, detail, errors } = {}, retryAfter = null) {
    const wait = retryAfter ? ` Try again in ${retryAfter} s.` : '';
    super((detail || title || `The relay answered with status ${status}.`) + wait);
    this.status = status;
    this.errors = Array.isArray(errors) ? errors : [];
  }
}

const PATIENCE = 30_000; // milliseconds
const LONG_PATIENCE = 600_000; // for what may be done to a million messages
let signedOut = () => {};

/** Sets what happens when the relay asks for a token. */
export function onSignedOut(listener) {
  signedOut = listener;
}

/** A query string of the parameters that say something; lists with commas. */
export function query(parameters) {
  const pairs = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && String(value) !== '');
  return pairs.length ? `?${new URLSearchParams(pairs.map(([name, value]) => [name, String(value)]))}` : '';
}

/** One request; gives the document of the answer, or throws a Problem. */
async function call(method, path, body, patience = PATIENCE) {
  const changes = method !== 'GET';
  let response;
  try {
    response = await fetch(path, {
      method,
      // Said for every change, body or not: a page of another origin cannot say so unasked.
      headers: changes ? { accept: 'application/json', 'content-type': 'application/json' } : { accept: 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: 'no-store',
      redirect: 'error',
      signal: AbortSignal.timeout(patience),
    });
  } catch {
    // Whoever asks for it again because of this should know what the first time has done.
    const unknown = changes ? ' What was asked for may be done, or still be under way.' : '';
    throw new Problem(0, { title: `The relay does not answer.${unknown}` });
  }
  const document = await response.json().catch(() => null);
  if (response.ok) return document;
  // The session's own answers are the sign-in form's business.
  if (response.status === 401 && path !== '/session') signedOut();
  throw new Problem(response.status, document ?? {}, response.headers.get('retry-after'));
}

export const get = (path, parameters = {}) => call('GET', path + query(parameters));
export const post = (path, body = {}) => call('POST', path, body);
export const postAndWait = (path, body) => call('POST', path, body, LONG_PATIENCE);
export const remove = (path, parameters = {}) => call('DELETE', path + query(parameters));
