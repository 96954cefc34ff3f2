// What both servers on Node share: tokens, the internal listener, events.
import http from 'node:http'
import { jwtVerify } from 'jose'

const secret = new TextEncoder().encode(process.env.BENCH_JWT_SECRET)
const emitToken = `Bearer ${process.env.BENCH_EMIT_TOKEN}`

/** Return the user of a token; throws for a bad one. */
export async function userOf (token) {
  const { payload } = await jwtVerify(token, secret, { algorithms: ['HS256'] })
  return payload.sub
}

/** Serve POST /internal/emit, one event or an array; `deliver(user, event)` returns a count. */
export function internalListener (deliver) {
  return http.createServer((request, response) => {
    if (request.method !== 'POST' || request.url !== '/internal/emit') {
      response.writeHead(404).end()
      return
    }
    if (request.headers.authorization !== emitToken) {
      response.writeHead(401).end()
      return
    }
    const parts = []
    request.on('data', (part) => parts.push(part))
    request.on('end', () => {
      let body
      try {
        body = JSON.parse(Buffer.concat(parts).toString())
      } catch {
        response.writeHead(400).end()
        return
      }
      const one = (emission) => {
        const timestamp = new Date().toISOString()
        const event = { type: emission.type, payload: emission.payload, timestamp }
        const delivered = deliver(emission.userId, event)
        return { id: null, timestamp, durable: false, duplicate: false, delivered }
      }
      const answer = Array.isArray(body) ? { results: body.map(one) } : one(body)
      const text = JSON.stringify(answer)
      response.writeHead(200, {
        'Content-Type': 'application/json',
        'Content-Length': Buffer.byteLength(text)
      })
      response.end(text)
    })
  })
}

/** Listen on both, on free ports of the loopback, and print the ports as a line of JSON. */
export function listen (publicServer, internalServer) {
  const host = '127.0.0.1'
  publicServer.listen({ port: 0, host, backlog: 4096 }, () => {
    internalServer.listen({ port: 0, host, backlog: 4096 }, () => {
      const ports = { public: publicServer.address().port, internal: internalServer.address().port }
      process.stdout.write(`${JSON.stringify(ports)}\n`)
    })
  })
}
