// GitHub, as far as signing in with it goes: oauth2-mock-server plays the OAuth server, with GitHub's paths, and this adds
// the API that tells who it was. `node server.mjs NODE_MODULES` prints its port and ends with its standard input.
import { createServer } from 'node:http';
import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';

const CLIENT = { id: 'zectre-test', secret: 'a-secret-of-github' };
const { OAuth2Server } = createRequire(resolve(process.argv[2], 'x.js'))('oauth2-mock-server');

const endpoints = { authorize: '/login/oauth/authorize', token: '/login/oauth/access_token' };
const { issuer, service } = new OAuth2Server(undefined, undefined, { endpoints });
issuer.url = 'http://github.test';
// Nobody reads its tokens: the kind of key that is made at once will do.
await issuer.keys.generate('ES256');

// Who is signed in to GitHub in the next browser that comes.
let visitor = null;
const codes = new Map();
const tokens = new Map();

service.on('beforeAuthorizeRedirect', ({ url }, request) => {
  const { client_id, code_challenge, code_challenge_method, scope } = request.query;
  const proper = client_id === CLIENT.id && code_challenge && code_challenge_method === 'S256' && scope.includes('user:email');
  if (visitor === null || !proper) {
    url.searchParams.delete('code');
    url.searchParams.set('error', 'access_denied');
    return;
  }
  codes.set(url.searchParams.get('code'), visitor);
});

service.on('beforeResponse', (response, request) => {
  const { client_id, client_secret, code, code_verifier } = request.body;
  const person = codes.get(code);
  codes.delete(code);
  if (client_id !== CLIENT.id || client_secret !== CLIENT.secret || !code_verifier || !person) {
    // GitHub says so with status 200.
    response.body = { error: 'bad_verification_code' };
    return;
  }
  const token = `gho_${randomUUID()}`;
  tokens.set(token, person);
  response.body = { access_token: token, token_type: 'bearer', scope: 'read:org,read:user,user:email' };
});

function api(request, response, path) {
  const person = tokens.get((request.headers.authorization ?? '').replace('Bearer ', ''));
  const answers = {
    '/user': () => ({ id: person.id, login: person.login, name: person.name ?? null }),
    '/user/emails': () => person.emails,
    '/user/memberships/orgs': () => [
      ...(person.orgs ?? []).map((id) => membership(id, 'active', 'member')),
      ...(person.administers ?? []).map((id) => membership(id, 'active', 'admin')),
      ...(person.invited ?? []).map((id) => membership(id, 'pending', 'admin')),
    ],
  };
  if (!request.headers['user-agent']) return send(response, 403, { message: 'no user agent' });
  if (!person) return send(response, 401, { message: 'Bad credentials' });
  send(response, 200, answers[path]());
}

function membership(id, state, role) {
  return { state, role, organization: { id, login: `org-${id}` } };
}

function send(response, status, body) {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, 'http://localhost');
  if (['/user', '/user/emails', '/user/memberships/orgs'].includes(pathname)) return api(request, response, pathname);
  if (pathname !== '/test/visitor') return service.requestHandler(request, response);
  let body = '';
  request.on('data', (data) => (body += data));
  request.on('end', () => {
    visitor = JSON.parse(body);
    send(response, 200, {});
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
