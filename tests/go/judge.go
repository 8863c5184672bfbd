// Runs templates with Go's own text/template: one JSON object a line in, one out.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"text/template"
)

type question struct {
	Template string         `json:"template"`
	Data     map[string]any `json:"data"`
	Chat     *chat          `json:"chat"`
}

type answer struct {
	Parse string `json:"parse"`
	Run   string `json:"run"`
	Text  string `json:"text"`
}

// What a template sees of a chat has struct types, whose fields exist or do not.
type chat struct {
	System   string
	Messages []*message
	Tools    tools
	Think    bool
}

type message struct {
	Role, Content, Thinking string
	ToolCalls               []call
	ToolName, ToolCallID    string
}

type call struct {
	ID       string
	Function function
}

type function struct {
	Index     int
	Name      string
	Arguments arguments
}

type arguments map[string]any

func (a arguments) String() string { return text(a) }

type tools []tool

func (t tools) String() string { return text(t) }

type tool struct {
	Type     string       `json:"type"`
	Function toolFunction `json:"function"`
}

type toolFunction struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Parameters  struct {
		Type       string     `json:"type"`
		Required   []string   `json:"required,omitempty"`
		Properties properties `json:"properties"`
	} `json:"parameters"`
}

func (f toolFunction) String() string { return text(f) }

func (t tool) String() string { return text(t) }

type properties map[string]property

func (p properties) String() string { return text(p) }

type property struct {
	Type        string `json:"type,omitempty"`
	Description string `json:"description,omitempty"`
	Enum        []any  `json:"enum,omitempty"`
}

func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

func judge(q question) (a answer) {
	t, err := template.New("").Option("missingkey=zero").Funcs(template.FuncMap{"json": text}).Parse(q.Template)
	if err != nil {
		a.Parse = err.Error()
		return
	}
	data := q.Data
	if q.Chat != nil {
		data = map[string]any{
			"System": q.Chat.System, "Messages": q.Chat.Messages, "Tools": q.Chat.Tools,
			"Think": q.Chat.Think, "Response": "",
		}
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		a.Run = err.Error()
	}
	a.Text = b.String()
	return
}

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var q question
		var a answer
		if err := json.Unmarshal(line, &q); err != nil {
			a.Parse = "judge: " + err.Error()
		} else {
			a = judge(q)
		}
		b, _ := json.Marshal(a)
		out.Write(append(b, '\n'))
		out.Flush()
	}
}
