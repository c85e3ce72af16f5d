// Vercel AI SDK: text, a stream, an object, embeddings. Arguments: URL, model.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateObject, generateText, streamText } from "ai";
import { z } from "zod";

const [baseURL, name] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "chainlora", baseURL, supportsStructuredOutputs: true });
const model = provider(name);
const asked = { model, prompt: "Say hello.", maxOutputTokens: 16, maxRetries: 0 };

console.log("text", (await generateText(asked)).text);
let text = "";
for await (const part of streamText(asked).textStream) text += part;
console.log("stream", text);
const schema = z.object({ city: z.string(), country: z.string() });
const made = await generateObject({ model, schema, prompt: "Paris is in France.", maxOutputTokens: 200, maxRetries: 0 });
console.log("object", JSON.stringify(made.object));
const found = await embed({ model: provider.textEmbeddingModel(name), value: "The cat sat.", maxRetries: 0 });
console.log("embedding", found.embedding.length);
