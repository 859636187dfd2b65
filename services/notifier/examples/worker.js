// A page's service worker that shows pushes by the rules of ../README.md, "What clients get". A test runs it in
// Chromium.

'use strict';

// What came is shown one after another: two at once could each find what is older than both on the screen.
let shown = Promise.resolve();

self.addEventListener('push', (event) => {
  const push = event.data.json();
  shown = shown.catch(() => {}).then(() => show(push));
  event.waitUntil(shown);
});

async function show(push) {
  const before = await self.registration.getNotifications();
  const same = before.filter(({ tag }) => tag === push.tag);
  if (push.title === undefined) {
    // What is newer than what was read stays.
    const read = same.filter(({ data }) => data.seq <= push.read_seq);
    await takeAway(read, before.length > read.length);
  } else if (same.some(({ data }) => data.seq > push.seq)) {
    // Late: all of it is out of date, the badge too.
    return;
  } else {
    // Replaces what has the same tag.
    await self.registration.showNotification(push.title, {
      body: push.body,
      tag: push.tag,
      data: { seq: push.seq, count: push.count, conversationId: push.conversation_id, read: false },
    });
    before
      .filter(({ tag, data }) => tag !== push.tag && data.read)
      .forEach((notification) => notification.close());
  }
  if ('setAppBadge' in self.navigator) {
    // Refused where the page is not installed as an app: then there is no icon.
    await self.navigator.setAppBadge(push.badge).catch(() => {});
  }
}

// Chromium tells the user that "this site has been updated in the background" after a push that leaves nothing
// on the screen. So the last one stays, marked, until there is another one or a page is opened.
async function takeAway(read, othersStay) {
  if (othersStay || (await isPageVisible())) {
    read.forEach((notification) => notification.close());
    return;
  }
  for (const { title, body, tag, data } of read) {
    const marked = { body, tag, data: { ...data, read: true }, silent: true };
    await self.registration.showNotification(title, marked);
  }
}

async function isPageVisible() {
  const pages = await self.clients.matchAll({ type: 'window', includeUncontrolled: true });
  return pages.some(({ visibilityState }) => visibilityState === 'visible');
}
