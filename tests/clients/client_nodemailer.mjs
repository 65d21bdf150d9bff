// nodemailer: one submission through STARTTLS and AUTH. What it is told and prints: see run.sh.
import { readFileSync, writeFileSync } from "node:fs";
import { PassThrough } from "node:stream";
import { createRequire } from "node:module";

const env = process.env;
// Installed outside the sources, so it is looked up from there.
const nodemailer = createRequire(`${env.NODE_MODULES}/`)("nodemailer");

const transport = nodemailer.createTransport({
  host: env.HOST,
  port: Number(env.PORT),
  requireTLS: true,
  tls: { ca: readFileSync(env.CA) },
  auth: { user: env.LOGIN, pass: env.PASSWORD },
});

// Keeps the bytes that the library sends.
transport.use("stream", (mail, done) => {
  mail.message.processFunc((input) => {
    const chunks = [];
    const output = new PassThrough();
    input.on("data", (chunk) => chunks.push(chunk));
    input.on("end", () => writeFileSync(env.SENT, Buffer.concat(chunks)));
    return input.pipe(output);
  });
  done();
});

try {
  const sent = await transport.sendMail({
    from: env.SENDER,
    to: env.RECIPIENT,
    subject: "Grüße from nodemailer",
    text: readFileSync(env.TEXT, "utf8"),
    headers: { "X-Idempotency-Key": env.KEY },
    attachments: [{ filename: "invoice.pdf", content: readFileSync(env.ATTACHMENT) }],
  });
  console.log(sent.response);
} catch (refusal) {
  if (!refusal.responseCode || refusal.command !== "DATA") throw refusal;
  console.log(refusal.response);
}
