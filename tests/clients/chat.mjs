// OpenAI's own client, with an access token that it asks for itself: prints the answer and a stream's text as JSON.
import OpenAI from "openai";

const { IAM, CLIENT_ID, CLIENT_SECRET, BASE_URL } = process.env;

async function accessToken() {
  const answer = await fetch(`${IAM}/accounts-api/v2/auth/token`, {
    method: "POST",
    headers: {
      Authorization: `Basic ${Buffer.from(`${CLIENT_ID}:${CLIENT_SECRET}`).toString("base64")}`,
      "Content-Type": "application/json",
    },
    body: JSON.stringify({ grant_type: "client_credentials", scope: "email" }),
  });
  return (await answer.json()).access_token;
}

const client = new OpenAI({ baseURL: BASE_URL, apiKey: accessToken, maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];
const whole = await client.chat.completions.create({ model: "m", messages, max_tokens: 4, temperature: 0 });
let parts = 0;
for await (const part of await client.chat.completions.create({
  model: "m", messages, max_tokens: 4, temperature: 0, stream: true,
})) {
  parts += part.choices.length ? 1 : 0;
}
console.log(JSON.stringify({ object: whole.object, tokens: whole.usage.completion_tokens, parts }));
