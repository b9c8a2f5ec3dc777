"""The sentences that ZhiXi and KnowLM-13B-IE were asked with, one for each task and language.

They are part of what the checkpoints know, so they are quoted to the letter from the templates that made the training
data (DeepKE, ``example/llm/InstructKGC``; KnowLM, ``examples/ie_prompt.py``). Both models saw paraphrases of them too.
Slots: ``{schema}`` the names, ``{format}`` the form of the answer, ``{triggers}`` the given events of task EEA.
"""

from collections.abc import Mapping

from src.extraction.schema import Language, Task

# DeepKE's templates of 2023-10 and later, after which an absent type is answered by NAN; forms end with a line's end.
KNOWLM: Mapping[Language, Mapping[Task, str]] = {
    "zh": {
        Task.NER: (
            "你是专门进行实体抽取的专家。已知候选的实体类型列表：{schema}，请你根据实体类型列表，从以下输入中抽取出可能存在的"
            "实体，如果不存在某实体就输出NAN。请按照{format}的格式回答。"
        ),
        Task.RE: (
            "你是专门进行关系三元组提取的专家。已知候选的关系列表：{schema}，请你根据关系列表，从以下输入中抽取出可能存在的"
            "头实体与尾实体，并给出对应的关系三元组，如果不存在某关系就输出NAN。请按照{format}的格式回答。"
        ),
        Task.EE: (
            "你是专门进行事件提取的专家。已知候选的事件字典：{schema}，请你根据事件字典，从以下输入中抽取出可能存在的事件，"
            "如果不存在某事件就输出NAN。请按照{format}的格式回答。"
        ),
        Task.EET: (
            "作为事件分析专员，你需要查看输入并根据事件类型名录：{schema}，来确定可能发生的事件。所有回答都应该基于{format}"
            "格式。如果事件类型不匹配，请用NAN标记。"
        ),
        Task.EEA: (
            "你是专门进行事件论元提取的专家。已知事件字典：{schema}，事件类型及触发词：{triggers}，请你从以下输入中抽取出可能"
            "存在的论元，如果不存在某事件论元就输出NAN。请按照{format}的格式回答。"
        ),
    },
    "en": {
        Task.NER: (
            "You are an expert specialized in entity extraction. With the candidate entity types list: {schema}, "
            "please extract possible entities from the input below, outputting NAN if a certain entity does not exist. "
            "Respond in the format {format}."
        ),
        Task.RE: (
            "You are an expert in extracting relation triples. With the candidate relation list: {schema}, please "
            "extract the possible head entities and tail entities from the input below and provide the corresponding "
            "relation triples. If a relation does not exist, output NAN. Please answer in the {format} format."
        ),
        Task.EE: (
            "You are a specialist in event extraction. Given the candidate event dictionary: {schema}, please extract "
            "any possible events from the input below. If an event does not exist, output NAN. Please answer in the "
            "format of {format}."
        ),
        Task.EET: (
            "As an event analysis specialist, you need to review the input and determine possible events based on the "
            "event type directory: {schema}. All answers should be based on the {format} format. If the event type "
            "does not match, please mark with NAN."
        ),
        Task.EEA: (
            "You are an expert in event argument extraction. Given the event dictionary: {schema}, and the event type "
            "and trigger words: {triggers}, please extract possible arguments from the following input. If an event "
            "argument does not exist, output NAN. Please respond in the {format} format."
        ),
    },
}

# The templates of 2023-06, without an answer for absent types. ZhiXi has none for EET and EEA: KnowLM's are taken.
ZHIXI: Mapping[Language, Mapping[Task, str]] = {
    "zh": {
        Task.NER: (
            "已知候选的实体类型列表：{schema}，请你根据实体类型列表，从以下输入中抽取出可能存在的实体。请按照{format}的格式"
            "回答。"
        ),
        Task.RE: (
            "已知候选的关系列表：{schema}，请你根据关系列表，从以下输入中抽取出可能存在的头实体与尾实体，并给出对应的关系三元"
            "组。请按照{format}的格式回答。"
        ),
        Task.EE: (
            "已知候选的事件类型列表：{schema}，论元角色列表：{roles}，请你根据事件类型列表和论元角色列表，从以下输入中抽取出"
            "可能存在的事件。请按照{format}的格式回答。"
        ),
    },
    "en": {
        Task.NER: (
            "Identify the entities and types in the following text and where entity type list {schema}. Please provide "
            "your answerin the form of {format}."
        ),
        Task.RE: (
            "Identify the head entities (subjects) and tail entities (objects) in the following text and provide the "
            "corresponding relation triples from relation list {schema}. Please provide your answer as a list of "
            "relation triples in the form of {format}."
        ),
        Task.EE: (
            "Identify the event information in the following text and provide the corresponding triples from event "
            "type list {schema} and role list {roles}. Please provide your answer as a list of triples in the form of "
            "{format}."
        ),
    },
}

# Forms of an answer by number, as prompts name them; what follows a form in KnowLM's prompts is a line's end.
_EVENT_ZH, _EVENT_EN = (
    "(事件触发词,事件类型,事件论元1#论元角色1;事件论元2#论元角色2)",
    "(Event Trigger,Event Type,Argument1#Argument Role1;Argument2#Argument Role2)",
)
FORMS: Mapping[Language, Mapping[Task, tuple[str, ...]]] = {
    "zh": {
        Task.NER: ("(实体,实体类型)", "实体是,实体类型是", "实体类型：实体", "{'entity':'', 'entity_type':''}"),
        Task.RE: (
            "(头实体,关系,尾实体)",
            "头实体是,关系是,尾实体是",
            "关系：头实体,尾实体",
            "{'head':'', 'relation':'', 'tail':''}",
        ),
        Task.EE: (_EVENT_ZH,),
        Task.EET: ("(事件触发词,事件类型)",),
        Task.EEA: (_EVENT_ZH,),
    },
    "en": {
        Task.NER: (
            "(Entity,Entity Type)",
            "Entity is,Entity Type is",
            "Entity Type：Entity",
            "{'entity':'', 'entity_type':''}",
        ),
        Task.RE: (
            "(Subject,Relation,Object)",
            "Subject is,Relation is,Object is",
            "Relation：Subject,Object",
            "{'head':'', 'relation':'', 'tail':''}",
        ),
        Task.EE: (_EVENT_EN,),
        Task.EET: ("(Event Trigger,Event Type)",),
        Task.EEA: (_EVENT_EN,),
    },
}
# ZhiXi's prompts have the form in quotes, and other forms for events
ZHIXI_EVENTS: Mapping[Language, str] = {
    "zh": "(事件触发词,事件类型,[(事件论元,论元角色)])",
    "en": "(Type, Trigger, Role1#Name; Role2#Name)",
}
# what ZhiXi writes before a Chinese answer
LABELS: Mapping[Task, str] = {
    Task.NER: "输入中包含的实体是：\n",
    Task.RE: "输入中包含的关系三元组是：\n",
    Task.EE: "输入中包含的事件是：\n",
}
