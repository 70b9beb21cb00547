"""A LangChain chain over a hybrid memory; runs as it stands, with a fake model.

pip install 'hybridmem-plugins[langchain]' && python examples/langchain_chain.py
"""

from __future__ import annotations

from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough

from hybridmem_plugins.langchain import HybridRetriever

documents = [
    Document("Ada Lovelace wrote the first program, for the Analytical Engine.", metadata={"title": "Ada Lovelace"}),
    Document("It was designed by Charles Babbage and never finished.", metadata={"title": "Analytical Engine"}),
    Document("Helium was first seen in the spectrum of the sun.", metadata={"title": "Helium"}),
]
question = "Who designed the machine that Ada Lovelace wrote for?"


def read(found: list[Document]) -> str:
    return "\n".join(f"{document.metadata['title']}: {document.page_content}" for document in found)


# Add persist_directory="memory" to keep it, and embedding=... for another model than the bundled one.
retriever = HybridRetriever.from_documents(documents, k=2)
prompt = ChatPromptTemplate.from_template("Answer from the context.\n\n{context}\n\nQuestion: {question}")
model = FakeListChatModel(responses=["Charles Babbage designed it."])  # Put your chat model here.
chain = {"context": retriever | read, "question": RunnablePassthrough()} | prompt | model | StrOutputParser()

print(chain.invoke(question))
for document in retriever.invoke(question):
    why = document.metadata["hybridmem"]
    print(f"{document.metadata['score']:.3f}  {document.metadata['title']}  found by {', '.join(why['routes'])}")
    for step in why["path"]:
        print(f"       from {step['from_title']}, which says: {step['sentence']}")
retriever.close()
