// Begins the page's parts, once it is known who looks at it.
import * as charts from './charts.js';
import * as configuration from './configuration.js';
import * as destinations from './destinations.js';
import * as keys from './keys.js';
import { follow } from './live.js';
import * as overview from './overview.js';
import * as queue from './queue.js';
import * as session from './session.js';
import * as story from './story.js';
import * as suppressions from './suppressions.js';

const AGAIN = 10_000; // milliseconds

async function begin() {
  try {
    if (!await session.begin()) return;
  } catch (problem) {
    // Nobody is there yet, or nobody who wants to talk to us: the page tries again.
    if (problem.status === 0) overview.connection('lost');
    else overview.banner('session', ['The relay does not let this page in', [problem.message]], 'bad');
    setTimeout(() => location.reload(), AGAIN);
    return;
  }
  follow((news) => charts.append(news, overview.show(news)), overview.connection);
  charts.begin();
  destinations.begin();
  queue.begin();
  keys.begin();
  suppressions.begin();
  configuration.begin();
  story.begin();
}

begin();
